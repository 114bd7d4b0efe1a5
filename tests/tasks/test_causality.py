"""Causality in a test's own loop: latents beside controls of the same length, place or density."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from diffdict.data.sample_indices import MeasuredIndices
from diffdict.data.toy_faces import ToyFaces
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim
from diffdict.errors import UserError
from diffdict.tasks.causality import Causality
from diffdict.tasks.controls import (
    Redirected,
    Strengthened,
    equal_factors,
    like_density,
    random_direction,
)
from diffdict.tasks.labeller import Labeller
from tests.tasks.test_samples import network
from tests.tasks.test_steering import QUIET, exported  # noqa: F401 - a fixture

NAMES = ["dark", "light", "never"]


class Halves(Labeller):
    """A labeller that calls a pixel light where its red is above the picture's mean."""

    image_size = 16

    def __init__(self, names=NAMES, size=16):
        nn.Module.__init__(self)
        self.segmenter, self.image_size = SimpleNamespace(class_names=names), size

    def forward(self, images, indices):
        red = images[:, 0]
        masks = (red > red.mean((1, 2), keepdim=True)).long()
        return SimpleNamespace(masks=masks)


@pytest.fixture
def tables(tmp_path):
    """What a test of the dictionary would have left."""
    folder = tmp_path / "concepts"
    folder.mkdir()
    rows = [{"class": name, "excess": e} for name, e in zip(NAMES, ("1 2", "3", ""), strict=True)]
    latents = [{"latent": i, "density": 0.01 * (i + 1), "activation": 1.0} for i in range(64)]
    found = {"format": 1, "tables": {"classes": rows, "latents": latents}}
    (folder / "results.json").write_text(json.dumps(found))
    return str(folder)


def measured(dictionary, tables, number=4, batch_size=2, labeller=None, **options):
    task = Causality(
        network(),
        partial(ddim, respacing="ddim4"),
        Objective(),
        str(dictionary),
        lambda net: labeller or Halves(),
        number,
        tables=tables,
        **options,
    )
    data = MeasuredIndices(number, batch_size)
    trainer = pl.Trainer(accelerator="cpu", use_distributed_sampler=False, **QUIET)
    trainer.test(task, data, verbose=False)
    return task, {key: float(value) for key, value in trainer.callback_metrics.items()}


def test_every_class_stands_beside_its_controls(exported, tables):  # noqa: F811
    task, figures = measured(exported[0], tables, amount=[-4, 1], controls=2)
    rows = task.tables()["effects"]
    kinds = ["latents", "direction", "others", "others_equal"]
    assert len(rows) == 2 * 2 * len(kinds)
    own = [row for row in rows if row["edit"] == "latents"]
    still = [row for row in own if row["amount"] == 1]
    assert all(row["kept"] == 1 and row["rms"] == 0 and row["p"] == 1 for row in still)
    moved = [row for row in own if row["amount"] == -4]
    assert all(row["rms"] > 0 and row["pictures"] == 4 for row in moved)
    assert {
        f"test/kept{end}" for end in ("", "_direction", "_others", "_others_equal")
    } <= figures.keys()
    equal = [row for row in rows if row["edit"] == "others_equal" and row["amount"] == -4]
    other = [row for row in rows if row["edit"] == "others" and row["amount"] == -4]
    for row, plain, wanted in zip(equal, other, moved, strict=True):
        assert abs(row["rms"] - wanted["rms"]) < abs(plain["rms"] - wanted["rms"]) + 1e-4
        assert row["amount_equal"] != -4


def test_batches_do_not_matter(exported, tables):  # noqa: F811
    options = {"concept": "light", "controls": 1, "window": [0, 600]}
    one, _ = measured(exported[0], tables, batch_size=4, **options)
    two, _ = measured(exported[0], tables, batch_size=1, **options)
    for a, b in zip(one.tables()["effects"], two.tables()["effects"], strict=True):
        assert a["window"] == "0-600"
        assert a["kept"] == pytest.approx(b["kept"], abs=0.02)
        assert a["rms"] == pytest.approx(b["rms"], rel=0.02, abs=1e-4)


def test_controls_are_as_long_at_every_token_and_as_strong_as_asked():
    x, t = torch.randn(2, 8, 4, 4), torch.tensor([10, 300])
    kept = torch.rand(2, 1, 4, 4) > 0.5
    edit = lambda h, t: h + kept * torch.randn(8, 4, 4, generator=torch.Generator().manual_seed(1))  # noqa: E731
    control = Redirected(edit, random_direction(8, 0))
    ours, theirs = control(x, t) - x, edit(x, t) - x
    assert torch.allclose(ours.norm(dim=1), theirs.norm(dim=1), atol=1e-5)
    assert torch.equal((ours == 0).all(1), ~kept[:, 0])
    timed = Redirected(edit, {0: torch.eye(8)[0], 400: torch.eye(8)[1]})(x, t) - x
    assert not timed[0, 1:].any()
    assert not timed[1, 0].any()
    twice = Strengthened(edit, torch.tensor([2.0, 0.0]))(x, t) - x
    assert torch.allclose(twice[0], 2 * theirs[0], atol=1e-5)
    assert not twice[1].any()
    factors = equal_factors(torch.tensor([4.0, 1.0]), torch.tensor([1.0, 0.0]))
    assert factors.tolist() == [2.0, 50.0]


def test_others_are_alive_apart_and_of_like_density():
    density = torch.tensor([0.1, 0.11, 0.5, 0.0, 0.52, 0.09])
    assert like_density([0, 2], density) == [1, 4]
    with pytest.raises(UserError, match=r"5 other latents .* 1 more are alive: most=1"):
        like_density([0, 1, 2, 3, 4], density)


REFUSED = {
    "concept=nose is no class": {"concept": "nose"},
    "concept=never has no latents": {"concept": "never"},
    "2 are known of dark, got 3": {"concept": "dark", "most": 3},
    "controls is at least 0": {"controls": -1},
    "labeller of the same classes": {"labeller": Halves(["a", "b"])},
    "learn one with dataset.image_size=16": {"labeller": Halves(size=32)},
    "pictures with the labeller's classes": {"pictures": partial(ToyFaces, image_size=16)},
    "holds no step": {"window": [1, 2]},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_measured_is_refused(words, exported, tables):  # noqa: F811
    with pytest.raises(UserError, match=words):
        measured(exported[0], tables, **REFUSED[words])


def test_without_a_labeller_it_says_how_one_is_named(exported, tables):  # noqa: F811
    with pytest.raises(UserError, match="labeller=outputs"):
        Causality(
            network(),
            partial(ddim, respacing="4"),
            Objective(),
            str(exported[0]),
            None,
            4,
            tables=tables,
        )
