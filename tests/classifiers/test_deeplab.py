"""DeepLabV3's network against torchvision's own answers, and the laws of its heads."""

import numpy as np
import pytest
import torch
from torch import Tensor

from diffdict.classifiers.deeplab import DeepLabV3
from diffdict.errors import UserError
from diffdict.run.rewrite import refuse_published


def normal(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


def test_every_golden_output(golden):
    case = golden("deeplabv3_resnet50")
    net = case.fill(DeepLabV3(50, case.facts["config"]["num_classes"]))
    assert list(net.state_dict()) == [key for key, _, _ in case.facts["state_dict"]]
    assert sum(p.numel() for p in net.parameters()) == case.facts["n_params"]
    images = normal(9001, (1, 3, 64, 64))
    with torch.no_grad():
        deep = net.backbone(images)
        got = {"backbone.out": deep, "head": net.classifier(deep), "out": net(images)}
    for output in case.facts["outputs"]:
        case.check(output["name"], got[output["name"]])


def test_the_published_network_has_its_size():
    with torch.device("meta"):
        net = DeepLabV3(101, 21, auxiliary=True)
    heads = {"classifier.4.weight": (21, 256, 1, 1), "aux_classifier.0.weight": (256, 1024, 3, 3)}
    shapes = {key: tuple(x.shape) for key, x in net.state_dict().items()}
    assert heads.items() <= shapes.items()
    assert {"classifier.0.convs.4.1.weight", "classifier.0.project.0.weight"} <= set(shapes)
    assert "backbone.layer3.22.conv3.weight" in shapes
    assert sum(p.numel() for p in net.parameters()) == 60_996_202


@pytest.fixture(scope="module")
def slim() -> DeepLabV3:
    torch.manual_seed(0)
    return DeepLabV3(50, 5, auxiliary=True, width=1 / 16).eval()


@pytest.mark.parametrize("size", [(64, 64), (65, 33), (40, 97), (7, 9)])
def test_logits_have_the_pictures_size(slim, size):
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        classes, auxiliary = slim.both(images)
        assert torch.equal(slim(images), classes)
        small = slim.backbone(images)
    assert classes.shape == auxiliary.shape == (2, 5, *size)
    assert tuple(small.shape[2:]) == tuple(-(-side // 8) for side in size)


def test_the_auxiliary_head_reads_layer3_and_is_left_out_unless_asked(slim):
    images = torch.randn(2, 3, 32, 32)
    _, auxiliary = slim.both(images)
    auxiliary.sum().backward()
    reached = {key.split(".")[1] for key, p in slim.named_parameters() if p.grad is not None}
    assert "layer3" in reached
    assert "layer4" not in reached
    without = DeepLabV3(50, 5, width=1 / 16)
    assert without.both(images).auxiliary is None
    assert not [key for key in without.state_dict() if key.startswith("aux")]


def test_it_compiles_and_learns(slim):
    """One graph, and every weight has a gradient."""
    net = DeepLabV3(50, 5, auxiliary=True, width=1 / 16)
    compiled = torch.compile(net.both, fullgraph=True, backend="eager")
    classes, auxiliary = compiled(torch.randn(2, 3, 32, 32))
    (classes.square().mean() + auxiliary.square().mean()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_published_file_is_told_by_its_keys(golden, tmp_path):
    """As ddpm-segmentation saves it: torchvision's names below model_state_dict."""
    keys = golden("deeplabv3_resnet50").facts["state_dict"]
    path = tmp_path / "deeplab_epoch_19.pth"
    torch.save({"model_state_dict": {key: torch.zeros(shape) for key, shape, _ in keys}}, path)
    with pytest.raises(UserError, match=f"evaluate.py task=deeplab model.checkpoint={path}"):
        refuse_published(path)
