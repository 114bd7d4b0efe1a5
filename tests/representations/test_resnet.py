"""Encoders from files in their published layouts, against the original's answers."""

import argparse
import pickle

import pytest
import torch

from diffdict.backbones.imagenet.resnet import ResNet
from diffdict.backbones.projectors import WIDTHS, make_projector
from diffdict.errors import UserError
from diffdict.representations.resnet import ResNetVector
from tests.inputs import image


def ruled(case, keys) -> dict:
    """Weights by the case's rule, by the names that they have in the released file."""
    return {
        key: case.weight(key, tuple(shape)) if kind == "float32" else torch.tensor(0)
        for key, shape, kind in keys
    }


def nest(*keys: str, inside: object) -> object:
    for key in reversed(keys):
        inside = {key: inside}
    return inside


VISSL = ("classy_state_dict", "base_model", "model")


@pytest.mark.parametrize("part", ["trunk", "head"])
@pytest.mark.parametrize("kind", ["dino", "simclr"])
def test_golden_from_the_released_layout(golden, tmp_path, kind, part):
    case = golden("rcdm_encoders")
    keys = case.facts["state_dicts"][kind]
    trunk, head = ruled(case, keys["trunk"]), ruled(case, keys["head"])
    if kind == "dino":
        whole = {f"module.{key}": value for key, value in {**trunk, **head}.items()}
        content = {"teacher": whole, "student": {}, "epoch": 3, "args": argparse.Namespace(a=1)}
    else:
        content = nest(*VISSL, inside={"trunk": trunk, "heads": head}) | {"phase_idx": 999}
    torch.save(content, tmp_path / "file.pth")
    net = ResNetVector(kind, part=part, checkpoint=str(tmp_path / "file.pth"))
    assert net.image_size == 224
    x = image(11101, (2, 3, 96, 96))
    case.check(f"{kind}.{part}", net.vectors(x))
    case.check(f"{kind}.{part}", net.train().vectors(x))  # batch norms stay as they are
    assert not any(p.requires_grad for p in net.parameters())
    assert net.dim == (2048 if part == "trunk" else WIDTHS[kind])


def trunk_state(prefix: str = "") -> dict:
    return {prefix + key: value for key, value in ResNet(50).state_dict().items()}


def head_state(kind: str, prefix: str) -> dict:
    return {prefix + key: value for key, value in make_projector(kind).state_dict().items()}


@pytest.fixture
def saved(tmp_path):
    def save(content: object) -> str:
        torch.save(content, tmp_path / "encoder.pth")
        return str(tmp_path / "encoder.pth")

    return save


def test_every_layout_opens(saved):
    trunk = trunk_state()
    flat = {**trunk, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    old = {key: value for key, value in flat.items() if "num_batches" not in key}
    swav = {f"module.{key}": value for key, value in trunk.items()}
    swav |= head_state("swav", "module.projection_head.")
    swav |= {"module.prototypes.weight": torch.zeros(3000, 128)}
    full = {f"module.backbone.{key}": value for key, value in trunk.items()}
    wanted = ResNetVector("supervised", checkpoint=saved(flat), image_size=None)
    x = image(1, (1, 3, 64, 64))
    for kind, content in (
        ("supervised", old),
        ("vicreg", {"model": {**full, "module.projector.0.weight": torch.zeros(1)}, "epoch": 1}),
        ("dino", trunk),  # the backbone alone, as its authors publish it too
    ):
        net = ResNetVector(kind, checkpoint=saved(content), image_size=None)
        assert torch.equal(net.vectors(x), wanted.vectors(x))
    for part, width in (("trunk", 2048), ("head", 128)):
        net = ResNetVector("swav", part, checkpoint=saved(swav), image_size=None)
        assert net.vectors(x).shape == (1, width)
        assert part != "trunk" or not torch.allclose(net.vectors(x), wanted.vectors(x))


def test_a_mirrored_block_is_the_vector_of_the_mirrored_picture(saved):
    net = ResNetVector("dino", checkpoint=saved(trunk_state()), image_size=64)
    x = image(2, (2, 3, 64, 64))
    maps = net.features(x, None, ["mirrored", "vector"])
    assert torch.equal(maps["mirrored"][:, :, 0, 0], net.vectors(x.flip(-1)))
    assert torch.equal(maps["vector"][:, :, 0, 0], net.vectors(x))
    assert list(net.features(x)) == ["vector"]
    assert net.vectors(x[..., :32, :32]).shape == (2, 2048)  # of any side


def test_what_is_taken_from_weights_is_in_their_hash(saved):
    path = saved({**trunk_state(), **head_state("swav", "projection_head.")})
    made = [
        ResNetVector("swav", "trunk", path),
        ResNetVector("swav", "head", path),
        ResNetVector("swav", "trunk", path, image_size=96),
        ResNetVector("dino", "trunk", path),
    ]
    assert len({net.sha256 for net in made}) == 4
    assert ResNetVector("swav", "trunk", path).sha256 == made[0].sha256


class Vissl:
    """A class that only its own library knows."""

    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("kind", "part", "content", "said"),
    [
        ("supervised", "head", None, "supervised has no head.*part=trunk"),
        ("simclr", "cls", None, "part of simclr is trunk or head, got 'cls'"),
        ("byol", "trunk", None, "kind is one of supervised"),
        ("dino", "head", trunk_state, "holds no head of dino.*part=trunk"),
        ("simclr", "trunk", trunk_state, "holds no trunk of simclr"),
        (
            "supervised",
            "trunk",
            lambda: ResNet(101).state_dict(),
            "another ResNet.*23 blocks in layer3",
        ),
        ("dino", "trunk", lambda: {"backbone.bn1.weight": torch.zeros(3)}, "holds no trunk"),
        ("dino", "trunk", lambda: {"conv1.weight": torch.zeros(64, 3, 7, 7)}, "missing from"),
        ("simclr", "trunk", lambda: nest(*VISSL[:2], inside={}), "a trunk and heads"),
        (
            "simclr",
            "trunk",
            lambda: nest(*VISSL, inside={"trunk": {}}) | {"config": Vissl()},
            "refused.*torch.save.*representation.checkpoint=.*plain",
        ),
        ("dino", "trunk", lambda: {"teacher": Vissl()}, "refused"),
    ],
)
def test_what_is_no_encoder_of_this_kind(saved, capsys, kind, part, content, said):
    path = None if content is None else saved(content())
    with pytest.raises(UserError, match=said):
        ResNetVector(kind, part, path)
    assert "run" not in capsys.readouterr().out


def test_cut_and_foreign_files(tmp_path):
    path = tmp_path / "cut.pth"
    path.write_bytes(pickle.dumps({"a": 1})[:-4])
    page = tmp_path / "page.pth"
    page.write_text("<html></html>")
    for file, said in ((path, "cut or damaged"), (page, "web page")):
        with pytest.raises(UserError, match=said):
            ResNetVector("dino", checkpoint=str(file))
