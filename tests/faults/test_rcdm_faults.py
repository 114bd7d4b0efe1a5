"""Pictures drawn from vectors under kills and SIGTERM; two ranks draw what one draws."""

import signal

import numpy as np
import pytest

from tests.faults.sittings import QUIET, SMALL, Sitting, break_shards, contents

pytestmark = pytest.mark.faults

NET = (
    *("backbone=rcdm", "backbone.resblock_updown=false", "backbone.use_scale_shift_norm=true"),
    *(*SMALL[1:], "dataset=toy_faces", "dataset.train_pictures=8", "dataset.test_pictures=20"),
)
LEARN = (
    *(*QUIET, "task=rcdm", *NET, "backbone.checkpoint=null", "data.vectors=live"),
    *("backbone@seer=pixels", "data.batch_size=2", "trainer.max_steps=2"),
    "hydra.run.dir=learned",
)
DRAW = (
    *("callbacks.progress=null", "task=samples", *NET, "backbone.checkpoint=learned/last.ckpt"),
    *("condition=pictures", "condition.number=20", "condition.each=2", "data.shard_size=2"),
    *("data.batch_size=1", "sampler.respacing=ddim5"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A network that is told vectors, and what one rank draws when nobody stops it."""
    folder = tmp_path_factory.mktemp("drawn")
    for door, words in (("train", LEARN), ("extract", (*DRAW, "folder=whole", "trainer=cpu"))):
        sitting = Sitting(folder, door, *words)
        assert sitting.end() == 0, sitting.said
    return folder


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_broken_drawing_goes_on_with_the_same_vectors(whole, number):
    broken = break_shards(whole, DRAW, "samples_*.npz", number, (2,))
    assert contents(broken) == contents(whole / "whole")


def test_two_ranks_draw_the_samples_of_one(whole):
    sitting = Sitting(whole, "extract", *DRAW, "folder=ranks", "trainer=ddp_sim")
    assert sitting.end() == 0, sitting.said
    one, two = contents(whole / "whole"), contents(whole / "ranks")
    assert one.keys() == two.keys()
    for name in one:
        if name.startswith("samples_"):
            arrays = [np.load(whole / part / name)["arr_0"] for part in ("whole", "ranks")]
            assert np.array_equal(*arrays), name
    rows = [np.load(whole / part / "conditions.npz")["vectors"] for part in ("whole", "ranks")]
    assert np.array_equal(*rows)
