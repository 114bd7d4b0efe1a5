"""SimCLR and SimSiam: the original's losses, exact resume, and encoders that tables can read."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from diffdict.backbones.code_encoder import CodeEncoder
from diffdict.backbones.resnet10 import ResNet10
from diffdict.classifiers.views.simclr_heads import SimclrHeads
from diffdict.classifiers.views.simsiam_heads import SimsiamHeads
from diffdict.data.toy_faces import ToyFaces
from diffdict.data.view_images import ViewImages
from diffdict.data.views import Views
from diffdict.errors import UserError
from diffdict.tasks.simclr import Simclr
from diffdict.tasks.simsiam import Simsiam
from diffdict.training.joint_optimizer import JointOptimizer
from diffdict.training.views.view_losses import negative_cosine, nt_xent, spread
from tests.inputs import normal
from tests.tasks.test_pdae import fit

TASKS = {"simclr": partial(Simclr, hidden=8, width=4), "simsiam": partial(Simsiam, hidden=4)}


def model(word, seed=0, encoder=None, **options):
    torch.manual_seed(seed)
    encoder = encoder or CodeEncoder(16, 8, [32, 32])
    sgd = partial(torch.optim.SGD, lr=1e-2, momentum=0.9)
    settings = {"optimizer": partial(torch.optim.Adam, lr=1e-3), "heads_optimizer": sgd}
    return TASKS[word](encoder, **{**settings, "ema_decay": 0.9, "warmup_steps": 2, **options})


def pictures(batch_size=4):
    faces = partial(ToyFaces, image_size=16, train_pictures=12, val_pictures=6, test_pictures=4)
    return ViewImages(faces, Views(), batch_size=batch_size)


def test_losses_are_the_originals(golden):
    case = golden("diti_figures")
    z = normal(9157, (8, 24))
    case.check("simclr.loss", nt_xent(*z.chunk(2), 0.5)[None])
    heads = SimclrHeads(24, 48, 12, 0.5)
    facts = {**case.facts, "state_dict": case.facts["simclr_state_dict"]}
    facts["weight_probe"] = case.facts["simclr_weight_probe"]
    case._replace(facts=facts).fill(heads)
    case.check("simclr.model", heads(*z.chunk(2))[None])
    siamese = SimsiamHeads(24, 6)
    case.fill(siamese).train()
    case.check("simsiam.model", siamese(*z.chunk(2))[None])
    case.check("simsiam.D", negative_cosine(*z.chunk(2))[None])


def test_nt_xent_is_the_sum_written_out():
    a, b = normal(1, (3, 5)), normal(2, (3, 5))
    both = nn.functional.normalize(torch.cat([a, b]), dim=1)
    similar = (both @ both.T / 0.2).exp()
    total = 0.0
    for i in range(6):
        others = sum(similar[i, k] for k in range(6) if k != i)
        total -= (similar[i, (i + 3) % 6] / others).log()
    torch.testing.assert_close(nt_xent(a, b, 0.2), total / 6)


def test_spread_tells_collapse():
    assert spread(torch.ones(8, 4)) == 0
    assert 0.9 < spread(normal(1, (4000, 16))) < 1.05


@pytest.mark.parametrize("word", TASKS)
@pytest.mark.parametrize("broken_at", [2, 3])
def test_a_resumed_run_is_the_straight_run(tmp_path, word, broken_at):
    """In mid-epoch and at its end, with the states and rates of both optimizers."""
    whole, losses = fit(tmp_path / "whole", 5, task=model(word), data=pictures())
    folder = tmp_path / "broken"
    broken = model(word)
    broken.configure_optimizers = partial(ends_at_five, broken)
    fit(folder, broken_at, task=broken, data=pictures(), every=broken_at)
    resume = folder / f"step={broken_at}.ckpt"
    resumed, rest = fit(
        tmp_path / "resumed", 5, task=model(word, seed=1), data=pictures(), resume=resume
    )
    assert rest == losses[broken_at:]
    assert len(set(losses)) == 5
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def ends_at_five(task):
    """Optimizers of a run that will be stopped, whose end is the whole run's."""
    made = type(task).configure_optimizers(task)
    task._end = 5
    return made


@pytest.mark.parametrize("word", TASKS)
def test_a_checkpoint_is_a_backbone(tmp_path, word):
    task, _ = fit(tmp_path, 2, task=model(word), data=pictures(), every=2)
    encoder = CodeEncoder(16, 8, [32, 32], checkpoint=str(tmp_path / "step=2.ckpt"))
    averaged = task.ema["encoder"].state_dict()
    assert all(torch.equal(value, averaged[key]) for key, value in encoder.state_dict().items())
    moving = task.net["encoder"].state_dict()
    assert any(not torch.equal(value, moving[key]) for key, value in averaged.items())


def test_a_resnet_learns_too(tmp_path):
    task, losses = fit(
        tmp_path, 1, task=model("simclr", encoder=ResNet10(16)), data=pictures(), every=1
    )
    assert math.isfinite(losses[0])
    counts = [v for k, v in task.ema["encoder"].state_dict().items() if k.endswith("tracked")]
    assert all(count == 2 for count in counts)  # two views: buffers are copied
    ResNet10(16, checkpoint=str(tmp_path / "step=1.ckpt"))


def test_rates_of_encoder_and_heads():
    task = model("simclr", warmup_steps=4)
    task._end = 100
    assert [task.rate(step) for step in (0, 3, 50)] == [0.25, 1.0, 1.0]
    shares = [task.heads_rate(step) for step in (0, 50, 100, 200)]
    assert shares == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_optimizers_together_are_those_apart():
    parameters = [nn.Parameter(normal(i, (3,))) for i in range(4)]
    twins = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    kinds = partial(torch.optim.Adam, lr=0.1), partial(torch.optim.SGD, lr=0.1, momentum=0.9)

    def made(some):
        return [kind(half) for kind, half in zip(kinds, (some[:2], some[2:]), strict=True)]

    def gradients(some):
        for i, parameter in enumerate(some):
            parameter.grad = parameter.detach() * (i + 1)

    joint, apart = JointOptimizer(*made(parameters)), made(twins)
    for step in range(4):
        for some in (parameters, twins):
            gradients(some)
        joint.param_groups[1]["lr"] = apart[1].param_groups[0]["lr"] = 0.1 / (step + 1)
        joint.step()
        for one in apart:
            one.step()
        if step == 1:  # goes on in others
            state = joint.state_dict()
            joint = JointOptimizer(*made(parameters))
            joint.load_state_dict(state)
    for ours, theirs in zip(parameters, twins, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("word", "options", "said"),
    [
        ("simclr", {"batch_size": 1}, "batch_size is at least 2 here, got 1: SimCLR tells"),
        ("simsiam", {"batch_size": 1}, "batch_size is at least 2 here, got 1: the batch norm"),
        ("simclr", {"temperature": 0}, "temperature is above 0, got 0"),
        ("simclr", {"width": 0}, "model.width is at least 1, got 0"),
        ("simsiam", {"hidden": 0}, "model.hidden is at least 1, got 0"),
        ("simsiam", {"loss_weight": 0}, "loss_weight is above 0, got 0"),
        ("simclr", {"image_size": 32}, "of 16×16 pictures, got 32×32"),
    ],
)
def test_mistakes_are_named(word, options, said):
    with pytest.raises(UserError, match=said):
        model(word, **options)


def test_a_run_without_an_end_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"this run has none: trainer\.max_steps="):
        fit(tmp_path, -1, task=model("simclr"), data=pictures(), max_epochs=-1)


def test_a_run_of_another_task_is_refused():
    with pytest.raises(UserError, match="no run of task=simclr with a code of 8"):
        model("simclr").check_checkpoint(Path("last.ckpt"), {"two_views": {"task": "simsiam"}})
