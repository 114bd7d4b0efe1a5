"""Causality in a test's own loop: latents beside controls of the same length, place or density."""

import json
import re
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
from diffdict.reports.concepts.compose import key_of
from diffdict.reports.steering import SteeringPage
from diffdict.tasks.causality import Causality
from diffdict.tasks.interventions.controls import (
    Redirected,
    Strengthened,
    equal_factors,
    like_density,
    random_direction,
)
from diffdict.tasks.invert import PicturesToMeasure
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
    data = options.pop("data", None) or MeasuredIndices(number, batch_size)
    reports = options.pop("reports", [])
    judges = labeller if isinstance(labeller, list) else lambda net: labeller or Halves()
    sampler = partial(ddim, respacing="ddim4")
    task = Causality(
        network(), sampler, Objective(), str(dictionary), judges, number, tables=tables, **options
    )
    settings = {"accelerator": "cpu", "use_distributed_sampler": False, "callbacks": reports}
    trainer = pl.Trainer(**settings, **QUIET)
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


class Redder(Halves):
    """A judge that wants more red."""

    def forward(self, images, indices):
        return SimpleNamespace(masks=(images[:, 0] > images[:, 0].mean() + 0.1).long())


def test_two_judges_see_the_same_pictures_and_are_compared(exported, tables):  # noqa: F811
    options = {"controls": 1, "damage": [50, 300]}
    judges = [lambda net: Halves(), lambda net: Redder()]
    both, figures = measured(exported[0], tables, labeller=judges, **options)
    alone, _ = measured(exported[0], tables, **options)
    rows = both.tables()["effects"]
    assert [row["judge"] for row in rows] == sorted(row["judge"] for row in rows)
    first = [{k: v for k, v in row.items() if k != "judge"} for row in rows if row["judge"] == 1]
    shared = ("class", "edit", "kept", "rms", "became", "damage", "latents")
    for ours, theirs in zip(first, alone.tables()["effects"], strict=True):
        assert [ours[key] for key in shared[:2]] == [theirs[key] for key in shared[:2]]
        assert ours["kept"] == pytest.approx(theirs["kept"], abs=0.02)
        assert ours["damage"] == pytest.approx(theirs["damage"], rel=0.05)
    ranked = both.tables()["rankings"]
    assert [row["class"] for row in ranked] == ["dark", "light"]
    assert ranked[0]["effect_1"] >= ranked[1]["effect_1"]
    assert ranked[0]["effect_1"] != ranked[0]["effect_2"]
    assert "test/spearman_judges" in figures
    assert "rankings" not in alone.tables()
    strangers = [lambda net: Halves(), lambda net: Halves(["a", "b"])]
    with pytest.raises(UserError, match="classes of their own: dark, light, never, and a, b"):
        measured(exported[0], tables, labeller=strangers)


def test_what_did_not_change_is_not_damaged(exported, tables):  # noqa: F811
    task, _ = measured(exported[0], tables, amount=1, controls=1, damage=[50, 300])
    assert all(row["damage"] == 0 for row in task.tables()["effects"])


class Parts(ToyFaces):
    """Faces in two labels, and a third that no pixel has."""

    def __init__(self, split):
        super().__init__(split, image_size=16, train_pictures=2, test_pictures=4)
        self.class_names, self.palette, self.num_classes = NAMES, [(0, 0, 0)] * 3, 3

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return {**sample, "mask": (torch.as_tensor(sample["mask"]) > 0).long()}


def test_real_pictures_are_counted_in_their_true_masks(exported, tables):  # noqa: F811
    data, page = PicturesToMeasure(Parts, "test", 2, 2), {"level": 500, "controls": 1}
    task, figures = measured(exported[0], tables, data=data, **page)
    rows = [row for row in task.tables()["effects"] if row["class"] == "light"]
    assert [row["edit"] for row in rows][-1] == "reconstruction"
    assert all(row["pictures"] == 4 for row in rows)
    assert 0 < figures["test/psnr"] < 100
    # of the true mask, what the labeller sees in the picture that was only drawn again
    chains, found = task.chains, []
    for index in range(4):
        sample = data.pictures[index]
        image, truth = sample["image"][None], sample["mask"] == 1
        back = chains.draw([index], chains.begin([index], image)).x
        seen = Halves()(back, [index]).masks[0] == 1
        found.append(float((seen & truth).sum() / truth.sum()))
    assert rows[-1]["kept"] == pytest.approx(sum(found) / 4, abs=0.02)
    assert rows[-1]["rms"] == 0
    with pytest.raises(UserError, match="the pictures are 32×32"):
        measured(exported[0], tables, data=data, picture_size=32, **page)


@pytest.mark.parametrize("real", [False, True])
def test_a_page_shows_each_class_off_and_on(exported, tables, tmp_path, real):  # noqa: F811
    page = SteeringPage(str(tmp_path), amounts=3, windows=2, seeds=2, farthest=2)
    options = {"controls": 1, "reports": [page], "pictures": Parts}
    if real:
        options |= {"data": PicturesToMeasure(Parts, "test", 2, 2), "level": 800}
    task, _ = measured(exported[0], tables, **options)
    text = (tmp_path / "steering/index.html").read_text()
    said = json.loads(re.search(r'id="data-figures">(.*?)</script>', text)[1])
    assert said["key"] == key_of(task.sae)
    assert said["amounts"] == [-2, 0, 2]
    assert said["windows"][0] == "all"
    assert len(said["windows"]) == 3
    assert [each["name"] for each in said["concepts"]] == ["dark", "light"]
    for concept, (_, latents) in zip(said["concepts"], task.wanted, strict=True):
        assert [one["number"] for one in concept["latents"]] == latents
        assert len(concept["seeds"]) == 2
        assert concept["effects"][0]["edit"] == "latents"
    strips = {one.concept: one for one in task.strips([-2, 1], [None, [0, 400]], 2)}
    own = strips["light"]
    assert torch.equal(own.on[0][1].images, own.off.images), "an amount of 1 changes nothing"
    assert not torch.equal(own.on[0][0].images, own.on[1][0].images)
    # the one latent of its class: alone it does what the set does
    assert torch.equal(own.singly[0].images, own.on[0][0].images)


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
    "level is a timestep from 250": {"level": 5},
    "between 0 and 999, got 1000": {"damage": [1000]},
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
