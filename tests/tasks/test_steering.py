"""Pairs off and on: off is the sample, on shares its noise, however they are cut or resumed."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from diffdict.backbones.denoiser import Given
from diffdict.backbones.pixels import Pixels
from diffdict.data.sample_indices import SampleIndices
from diffdict.diffusion.chains.pairs import window_level
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim, ddpm
from diffdict.errors import UserError
from diffdict.features.codes.studied_dictionary import StudiedDictionary
from diffdict.results.inputs.class_latents import ClassLatents
from diffdict.sae import saelens
from diffdict.sae.topk import TopK
from diffdict.tasks.labeller import Labeller
from diffdict.tasks.samples import Samples
from diffdict.tasks.steering import SteeredPairs
from tests.tasks.test_samples import network

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
SOME = [0, 3, 5, 8, 13, 21]
NODE = {"_target_": "diffdict.backbones.guided_unet.GuidedUNet"}


def export(folder, block):
    """A dictionary of a block of the network, its latents in an order of their own."""
    net = network()
    width = net.shapes[block][0]
    maps = net.features(torch.randn(4, 3, 16, 16), 300, [block])[block]
    tokens = maps.permute(0, 2, 3, 1).flatten(0, 2).detach()
    mean = tokens.mean(0)
    scale = 1 / float((tokens - mean).square().mean().sqrt())
    sae = TopK(width, mean, scale, latents=2 * width, k=8).eval()
    sae.frequency.copy_(torch.rand(2 * width, generator=torch.Generator().manual_seed(3)))
    card = {"backbone": NODE, "timestep": 300, "block": block, "backbone_sha256": net.sha256}
    saelens.export(sae, folder, card)
    return folder, sae


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A dictionary of the network's last block."""
    return export(tmp_path_factory.mktemp("dictionary") / "out", 1)


def steer(
    folder,
    dictionary,
    number=5,
    shard_size=3,
    batch_size=2,
    sampler=None,
    precision="32-true",
    **options,
):
    data = SampleIndices(number, shard_size, batch_size)
    task = SteeredPairs(
        options.pop("net", None) or network(),
        sampler or partial(ddim, respacing="ddim4"),
        Objective(),
        dictionary if isinstance(dictionary, list) else str(dictionary),
        folder=str(folder),
        **data.facts,
        **{"latents": SOME, **options},
    )
    trainer = pl.Trainer(
        accelerator="cpu", use_distributed_sampler=False, precision=precision, **QUIET
    )
    trainer.predict(task, data, return_predictions=False)
    return task


def stored(folder):
    parts = [np.load(path) for path in sorted(folder.glob("*.npz"))]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0].files}


@pytest.mark.parametrize(
    "sampler",
    [
        partial(ddim, respacing="ddim4"),
        partial(ddim, respacing="4", eta=1.0),
        partial(ddpm, respacing="4"),
    ],
)
def test_off_is_the_sample_of_the_same_index(tmp_path, exported, sampler):
    steer(tmp_path / "pairs", exported[0], sampler=sampler)
    data = SampleIndices(5, 3, 2)
    task = Samples(network(), sampler, Objective(), str(tmp_path / "samples"), **data.facts)
    pl.Trainer(accelerator="cpu", **QUIET).predict(task, data, return_predictions=False)
    pairs, samples = stored(tmp_path / "pairs"), stored(tmp_path / "samples")
    assert np.array_equal(pairs["off"], samples["arr_0"])
    assert pairs["on"].shape == (5, 1, 16, 16, 3)
    assert not np.array_equal(pairs["on"][:, 0], pairs["off"])


def test_amounts_and_windows_are_strips_of_their_own(tmp_path, exported):
    several = steer(tmp_path / "all", exported[0], amount=[1, -4], window=[[0, 500], [300, 1000]])
    assert several.levels == [1, 1, 3, 3]
    assert [change.amount for change in several.changes] == [1, -4, 1, -4]
    pairs = stored(tmp_path / "all")
    assert np.array_equal(pairs["on"][:, 0], pairs["off"])
    assert np.array_equal(pairs["on"][:, 2], pairs["off"])
    steer(tmp_path / "one", exported[0], amount=-4, window=[0, 500])
    assert np.array_equal(stored(tmp_path / "one")["on"][:, 0], pairs["on"][:, 1])
    facts = json.loads((tmp_path / "all/steering.json").read_text())
    assert facts["changes"][3] == {
        "concept": None,
        "latents": SOME,
        "amount": -4.0,
        "window": [300, 1000],
    }
    assert (tmp_path / "all/sheet.png").is_file()


def test_dictionaries_of_two_blocks_change_both_at_once(tmp_path, exported):
    other, _ = export(tmp_path / "other", 0)
    both = [str(exported[0]), str(other)]
    task = steer(tmp_path / "both", both, latents=[SOME, [2, 4]], amount=[-2, 1])
    (edited, left), made = task.branches(Given()), stored(tmp_path / "both")
    assert sorted(edited.net.keywords["edits"]) == [0, 1]
    assert [edit.latents for edit in left.net.keywords["edits"].values()] == [SOME, [2, 4]]
    assert np.array_equal(made["on"][:, 1], made["off"])
    for path, latents in ((exported[0], SOME), (other, [2, 4])):
        steer(tmp_path / str(len(latents)), path, latents=latents)
        alone = stored(tmp_path / str(len(latents)))
        assert np.array_equal(alone["off"], made["off"])
        assert not np.array_equal(alone["on"][:, 0], made["on"][:, 0])
    said = json.loads((tmp_path / "both/steering.json").read_text())
    assert (said["block"], [one["block"] for one in said["beside"]]) == (1, [0])
    for twice, latents, words in (
        ([both[0]] * 2, [[1], [2]], "change blocks 1, 1 of .* one of its own"),
        (both, [1, 2, 3], r"latents=\[1, 2, 3\] is one for each .* latents=\[\[156\]"),
    ):
        with pytest.raises(UserError, match=words):
            steer(tmp_path / "none", twice, latents=latents)


def test_pairs_in_bf16_are_those_of_fp32_but_for_rounding(tmp_path, exported):
    """Both pictures move by less than a fifth of what the change itself does."""
    made = {}
    for precision in ("32-true", "bf16-mixed"):
        steer(tmp_path / precision, exported[0], precision=precision, amount=-6)
        made[precision] = {k: x.astype(float) for k, x in stored(tmp_path / precision).items()}
    full, half = made.values()
    effect = np.sqrt(np.square(full["on"][:, 0] - full["off"]).mean())
    assert effect > 2
    for key in ("off", "on"):
        rounded = np.sqrt(np.square(half[key] - full[key]).mean())
        assert 0 < rounded < 0.2 * effect, (key, rounded, effect)


def test_numbers_mean_the_same_latents_in_export_and_training(tmp_path, exported):
    folder, sae = exported
    studied = StudiedDictionary(*_loaded(folder), network())
    rows = studied.sae.dictionary / studied.sae.token_scale
    assert torch.allclose(rows, sae.dictionary / sae.token_scale, atol=1e-5)
    assert torch.allclose(studied.sae.frequency, sae.frequency, atol=1e-6)
    plain, net = torch.randn(1, 3, 16, 16), network()
    t = torch.tensor([300])
    ours = net(plain, t, edits=studied.edits(SOME))
    straight = StudiedDictionary(sae, {**_loaded(folder)[1], "order": None}, network())
    theirs = net(plain, t, edits=straight.edits(SOME))
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(ours, net(plain, t), atol=1e-3)


def _loaded(folder):
    return saelens.load(folder), json.loads((folder / "card.json").read_text())


def test_a_broken_run_goes_on_and_another_is_refused(tmp_path, exported):
    steer(tmp_path / "whole", exported[0])
    steer(tmp_path / "broken", exported[0])
    lost = tmp_path / "broken/pairs_000003-000004.npz"
    lost.unlink()
    steer(tmp_path / "broken", exported[0])
    assert lost.read_bytes() == (tmp_path / "whole" / lost.name).read_bytes()
    for options in ({"amount": -3}, {"window": [0, 500]}, {"latents": [7]}, {"how": "add"}):
        with pytest.raises(UserError, match="holds other samples"):
            steer(tmp_path / "broken", exported[0], **options)


def test_a_window_without_a_step_names_those_that_there_are():
    sampler = partial(ddim, respacing="ddim4")
    process = network().process
    assert window_level(None, sampler, process) == 3
    assert window_level([250, 251], sampler, process) == 1
    with pytest.raises(UserError, match=r"timesteps are 0, 250, 500, 750"):
        window_level([251, 300], sampler, process)


class Left(Labeller):
    """Calls the left half of every picture left."""

    image_size, identity = 16, {"labeller": "left"}

    def __init__(self):
        nn.Module.__init__(self)
        self.segmenter = SimpleNamespace(class_names=["left", "right", "none"])

    def forward(self, images, indices):
        columns = torch.arange(16).expand(len(images), 16, 16)
        return SimpleNamespace(masks=(columns >= 8).long())


def test_codes_change_only_where_the_plain_picture_shows_a_class(tmp_path, exported):
    made = {}
    for where in (None, "left", "right", "none"):
        task = steer(
            tmp_path / str(where),
            exported[0],
            sampler=partial(ddim, respacing="ddim2"),
            where=where,
            labeller=lambda net: Left(),
            amount=-4,
        )
        made[where] = stored(tmp_path / str(where))
    off = made[None]["off"]
    assert all(np.array_equal(each["off"], off) for each in made.values())
    assert np.array_equal(made["none"]["on"][:, 0], off)
    gaps = {w: np.abs(each["on"][:, 0].astype(int) - off) for w, each in made.items()}
    assert gaps["left"][:, :, :8].mean() > gaps["left"][:, :, 8:].mean()
    assert gaps["right"][:, :, :8].mean() < gaps["right"][:, :, 8:].mean()
    facts = json.loads((tmp_path / "none/steering.json").read_text())
    assert facts["where"] == {"class": "none", "labeller": "left"}
    assert task.region is not None
    with pytest.raises(UserError, match="where=hat is no class of the labeller's: left, right"):
        steer(tmp_path / "hat", exported[0], where="hat", labeller=lambda net: Left())
    with pytest.raises(UserError, match="where=left labels what was drawn: labeller=outputs"):
        steer(tmp_path / "hat", exported[0], where="left")
    assert not (tmp_path / "hat").exists()


REFUSED = {
    "concept=mouth or latents=.* got neither": {"latents": None},
    "one of them, got concept=a": {"concept": "a"},
    "no test says which latents": {"latents": None, "concept": "mouth"},
    "latents=.. steers nothing": {"latents": []},
    "amount=.. changes nothing": {"amount": []},
    "finite number .* got nan": {"amount": [1.0, float("nan")]},
    "how is scale": {"how": "sclae"},
    "rises, got": {"window": [500, 200]},
    "got label=3": {"label": 3},
    "and one is edited, got block=0": {"block": 0},
    "is no diffusion network": {"net": Pixels(16)},
    "with the weights .* the ones here are": {"net": network(use_new_attention_order=True)},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_steered_is_refused_and_leaves_nothing(words, tmp_path, exported):
    options = dict(REFUSED[words])
    if "weights" in words:
        with torch.no_grad():
            next(options["net"].parameters()).add_(1)
    with pytest.raises(UserError, match=words):
        steer(tmp_path / "none", exported[0], **options)
    assert not (tmp_path / "none").exists()


def test_numbers_that_are_none_name_the_change_and_keep_what_is_done(tmp_path, exported):
    with pytest.raises(UserError, match=r"ddim \(latents 0 3 5 8 x1e\+38\) ended in what is no"):
        steer(tmp_path / "pairs", exported[0], amount=1e38)
    assert not list((tmp_path / "pairs").glob("*.npz"))


def test_a_classs_latents_stand_in_the_tables_beside(tmp_path):
    rows = [{"class": "mouth", "excess": "4 2 9"}, {"class": "hat", "excess": ""}]
    latents = [{"latent": i, "density": 0.1 * i, "activation": 2.0 * i} for i in range(10)]
    found = {"format": 1, "tables": {"classes": rows, "latents": latents}}
    (tmp_path / "concepts").mkdir()
    (tmp_path / "last.ckpt").write_bytes(b"")
    (tmp_path / "dictionary").mkdir()
    (tmp_path / "concepts/results.json").write_text(json.dumps(found))
    for place in (tmp_path, tmp_path / "last.ckpt", tmp_path / "dictionary"):
        known = ClassLatents(place)
        assert known.of_class("mouth", 2) == [4, 2]
        assert known.units([1, 3]) == [2.0, 6.0]
    for concept, most, words in (
        ("nose", 8, "no class .*: mouth, hat"),
        ("hat", 8, "no latents of its own"),
        ("mouth", 4, "3 are known of mouth, got 4"),
        ("mouth", 0, "got 0"),
    ):
        with pytest.raises(UserError, match=words):
            known.of_class(concept, most)
    with pytest.raises(UserError, match=r"tables=.* has no classes"):
        ClassLatents(tmp_path, tables=str(tmp_path))
