"""Pairs off and on under kills and SIGTERM; one rank and two draw and count the same."""

import json
import signal

import numpy as np
import pytest

from tests.faults.sittings import QUIET, SMALL, Sitting, break_shards, contents

pytestmark = pytest.mark.faults

NET = (*SMALL, "backbone.checkpoint=null", "dataset.train_pictures=4")
LEARN = (
    *(*QUIET, *NET, "task=sae", "block=1", "sae.scale=4", "sae.k=4", "data.batch_size=64"),
    *("data.source=live", "data.val_pictures=1", "trainer.max_steps=8", "hydra.run.dir=learned"),
)
LABEL = (
    *(*QUIET, *NET, "task=pixel_mlp", "block=1", "data.source=live", "model.members=2"),
    *("trainer.max_epochs=1", "test=false", "hydra.run.dir=labeller"),
)
STEER = (
    *("callbacks.progress=null", "task=steering", "dictionary=learned", "latents=[0,1,2,3]"),
    *("data.number=40", "data.shard_size=2", "data.batch_size=1", "sampler.respacing=ddim5"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A dictionary, a labeller, and the pairs that one rank draws when nobody stops it."""
    folder = tmp_path_factory.mktemp("steered")
    for door, words in (
        ("train", LEARN),
        ("train", LABEL),
        ("extract", (*STEER, "folder=whole", "trainer=cpu")),
    ):
        sitting = Sitting(folder, door, *words)
        assert sitting.end() == 0, sitting.said
    return folder


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_broken_pairs_go_on_without_doubles(whole, number):
    broken = break_shards(whole, STEER, "pairs_*.npz", number, (1, 6))
    assert contents(broken) == contents(whole / "whole")


def test_two_ranks_draw_the_pairs_of_one(whole):
    sitting = Sitting(whole, "extract", *STEER, "folder=two", "trainer=ddp_sim")
    assert sitting.end() == 0, sitting.said
    assert contents(whole / "two") == contents(whole / "whole")


def test_two_ranks_count_the_effects_of_one(whole):
    classes = ["background", "skin"]
    found = {"format": 1, "tables": {"classes": [], "latents": []}}
    found["tables"]["classes"] = [{"class": name, "excess": "0 1"} for name in classes]
    with (whole / "learned/results.json").open() as file:
        latents = len(json.load(file)["tables"]["latents"])
    rows = [{"latent": i, "density": 0.01 + i / 1e4, "activation": 1.0} for i in range(latents)]
    found["tables"]["latents"] = rows
    (whole / "tables").mkdir()
    (whole / "tables/results.json").write_text(json.dumps(found))
    effects = {}
    for trainer in ("cpu", "ddp_sim"):
        words = ("task=causality", "dictionary=learned", "labeller=labeller/last.ckpt")
        words += ("tables=tables", "data.number=6", "data.batch_size=2", "controls=1")
        words += ("sampler.respacing=ddim2", f"trainer={trainer}", f"hydra.run.dir={trainer}")
        words += ("dataset.image_size=16", "dataset.train_pictures=2")
        sitting = Sitting(whole, "evaluate", *words)
        assert sitting.end() == 0, sitting.said
        with (whole / trainer / "results.json").open() as file:
            effects[trainer] = json.load(file)["tables"]["effects"]
    assert len(effects["cpu"]) == len(effects["ddp_sim"]) > 0
    for one, two in zip(effects["cpu"], effects["ddp_sim"], strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            if isinstance(value, float):
                np.testing.assert_allclose(value, two[key], rtol=1e-6, atol=1e-9, err_msg=key)
            else:
                assert value == two[key], key
