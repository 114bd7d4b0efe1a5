"""The real doors on DDAE's networks of milliseconds: train, resume, extract, sample, evaluate."""

import json

import numpy as np
import pytest
import torch

from diffdict.features.store import FeatureStore
from tests.doors import FACES, QUIET, open_door

NET = [
    *("backbone.ch_mults=[1,1]", "backbone.is_attn=[false,true]", "backbone.n_blocks=1"),
    *("dataset=toy_faces", *FACES),
]
TRAIN = [
    *(*QUIET, *NET, "data.batch_size=2", "data.num_workers=0", "model.compile=false"),
    *("trainer.precision=32-true", "trainer.log_every_n_steps=1", "trainer.val_check_interval=2"),
    *("callbacks.samples.every_n_steps=2", "callbacks.samples.steps=3", "model.anneal_steps=8"),
]


def opened(door, words, folder, capfd):
    closed = open_door(door, words, folder, capfd)
    assert closed.code == 0, closed.lines


@pytest.fixture(params=["ddae_small", "ddae_small_edm"])
def word(request):
    return request.param


def test_from_training_to_maps_and_samples(tmp_path, capfd, word):
    words = [f"experiment={word}", *TRAIN]
    opened("train", [*words, "trainer.max_steps=4", "hydra.run.dir=whole"], tmp_path, capfd)
    opened("train", [*words, "trainer.max_steps=2", "hydra.run.dir=part"], tmp_path, capfd)
    again = ["trainer.max_steps=4", "ckpt_path=part/last.ckpt", "hydra.run.dir=rest"]
    opened("train", [*words, *again], tmp_path, capfd)
    ours, theirs = (
        torch.load(tmp_path / run / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("rest", "whole")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    measured = json.loads((tmp_path / "whole" / "results.json").read_text())["metrics"]
    assert 0 < measured["test/loss"] < 10
    assert len(list((tmp_path / "whole" / "samples").glob("*.png"))) == 2
    check_samples(tmp_path, capfd, word)
    check_features(tmp_path, capfd, word)


def check_samples(folder, capfd, word):
    """Any sampler of the process draws from the run's own checkpoint."""
    edm = word.endswith("edm")
    for sampler in ["heun"] if edm else ["ddim", "ddpm", "ddae_ddim"]:
        steps = "respacing='4'" if sampler in ("ddim", "ddpm") else "steps=4"
        words = [*QUIET, f"backbone={word}", *NET, "backbone.checkpoint=whole/last.ckpt"]
        words += ["task=samples", "data.number=2", f"sampler={sampler}", f"sampler.{steps}"]
        opened("extract", [*words, f"folder={sampler}"], folder, capfd)
        with np.load(folder / sampler / "samples_000000-000001.npz") as arrays:
            assert arrays["arr_0"].shape == (2, 16, 16, 3)


def check_features(folder, capfd, word):
    """The network's own timestep, and every block by its number."""
    words = [*QUIET, f"backbone={word}", *NET, "backbone.checkpoint=whole/last.ckpt", "block=all"]
    opened("extract", [*words, "split=train"], folder, capfd)
    timestep = 4 if word.endswith("edm") else 11
    store = FeatureStore.open(folder / f"features/toy_faces/{word}/train")
    maps = sorted(set(store.streams) - {"mask", "attributes"})
    assert maps == [f"t{timestep:04d}-b{b:02d}" for b in range(1, 5)]
    assert all(store[0][name].float().isfinite().all() for name in maps)
