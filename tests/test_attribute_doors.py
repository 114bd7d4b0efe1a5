"""Attributes of pictures through the real doors, on networks of sixteen pixels."""

import pytest

from tests.doors import NET, QUIET, open_door
from tests.test_bad_input import tree
from tests.test_probe_doors import opened, rows_of

FACES = [
    *("dataset.image_size=16", "dataset.train_pictures=40", "dataset.val_pictures=0"),
    *("dataset.test_pictures=30",),
]
SMALL = [*QUIET, "dataset=toy_faces", "backbone=toy_ddpm", *NET, *FACES, "noise.shared=false"]
SWEEP = [*SMALL, "task=probe_sweep", "target=attributes", "timestep=[10,500]", "block=[0,1]"]
LEARN = [
    *("task=linear_probe", "target=attributes", "timestep=10", "block=1", "data.batch_size=8"),
    *("data.num_workers=0", "trainer.max_epochs=2"),
]
CODE = [
    *(*QUIET, "dataset=toy_faces", "backbone=code_encoder", *FACES, "backbone.code=8"),
    *("backbone.image_size=16", "block=all"),
    "++backbone.segments={number: 4, stages: [300,1000], dims: [3,5]}",
]


FLOATS = {"val_score", "score", "standard_error", "mse", "r2"}


def words(row):
    """What a row is about, and what was chosen."""
    return {key: value for key, value in row.items() if key not in FLOATS}


def numbers(row):
    """What was measured."""
    return {key: float(row[key] or "nan") for key in FLOATS}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An empty folder."""
    return tmp_path_factory.mktemp("world")


def test_a_network_is_mapped_alive_and_from_a_store(world, capfd):
    opened("evaluate", [*SWEEP, "hydra.run.dir=live"], world, capfd)
    opened("extract", [*SMALL, "timestep=[10,500]", "block=[0,1]"], world, capfd)
    opened("evaluate", [*SWEEP, "data.source=store", "hydra.run.dir=stored"], world, capfd)
    live, stored = (rows_of(world / run / "attributes.csv") for run in ("live", "stored"))
    assert [words(row) for row in live] == [words(row) for row in stored]
    # Pictures stand in other batches there, for which a convolution may sum in another order.
    for one, other in zip(live, stored, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-3, abs=1e-4, nan_ok=True)
    assert {row["timestep"] for row in live} == {"10", "500"}
    assert {row["attribute"] for row in live} >= {"glasses", "yaw", "skin_lightness"}
    assert (world / "live" / "heatmap-attributes.png").is_file()
    assert [row for row in rows_of(world / "live" / "best.csv") if float(row["score"]) > 0.6]
    plain = ["data.source=store", "data.flip=false", "data.crop_padding=0"]
    opened("train", [*SMALL, *LEARN, *plain, "hydra.run.dir=shelved"], world, capfd)
    rows = rows_of(world / "shelved" / "attributes.csv")
    assert {row["attribute"] for row in rows} == {row["attribute"] for row in live}
    assert all(float(row["score"]) == float(row["score"]) for row in rows if row["in_mean"] == "1")


def test_a_code_is_mapped_by_its_parts_and_compared_with_the_network(world, capfd):
    words = [*CODE, "task=probe_sweep", "target=attributes", "model.random_orders=1"]
    opened("evaluate", [*SWEEP, "hydra.run.dir=network"], world, capfd)
    opened("evaluate", [*words, "hydra.run.dir=code"], world, capfd)
    parts = [row["part"] for row in rows_of(world / "code" / "cells.csv")]
    assert parts[:3] == ["code", "stage0", "stage1"]
    assert {"segment3", "prefix0", "prefix3", "random0-8"} <= set(parts)
    words = [*QUIET, "report=fading", "runs=[network,code]", "hydra.run.dir=fading"]
    opened("evaluate", words, world, capfd)
    assert rows_of(world / "fading" / "correlations.csv")[0]["code"] == "code"


def test_heads_learn_attributes_with_mirrors(world, capfd):
    words = [*SMALL, *LEARN, "model.epoch=best", "data.test_each_epoch=true"]
    opened("train", [*words, "hydra.run.dir=heads"], world, capfd)
    again = [*QUIET, "ckpt_path=heads/last.ckpt", "hydra.run.dir=again"]
    opened("evaluate", again, world, capfd)
    for table in ("attributes", "cells"):
        first, second = (rows_of(world / run / f"{table}.csv") for run in ("heads", "again"))
        assert first == second
    cell = rows_of(world / "heads" / "cells.csv")[0]
    assert float(cell["best_test_figure"]) >= float(cell["score"]) - 1e-6
    rows = {row["attribute"]: row for row in rows_of(world / "heads" / "attributes.csv")}
    assert rows["glasses"]["figure"] == "average_precision"
    assert rows["yaw"]["figure"] == "pearson"
    other = [*again[:3], "+data.attributes=binary", "hydra.run.dir=other"]
    closed = open_door("evaluate", other, world, capfd)
    assert closed.code == 2
    assert "holds heads of classes glasses" in closed.lines[0]


MISTAKES = [
    ("sweep", "data.attributes=[glases]", "no attribute 'glases'", "Did you mean glasses?"),
    ("sweep", "data.attributes=[]", "asks for none", "null takes all"),
    ("sweep", "model.random_orders=2", "has no code with parts", "backbone.segments="),
    ("sweep", "dataset.train_pictures=1", "fitted on 0", "train_pictures="),
    ("sweep", "dataset.train_pictures=2", "is one value", "dataset.train_pictures="),
    ("sweep", "dataset=npz dataset.path=none.npz", "none.npz", "dataset.path=…"),
    ("learn", "data.attributes=colour", "no attribute 'colour'", "binary, number, null"),
    ("learn", "model.epoch=first", "got 'first'", "last or best"),
    ("code", "data.source=store", "No features", "extract.py"),
]
SETTINGS = {
    "sweep": ["evaluate", *SWEEP],
    "learn": ["train", *SMALL, *LEARN],
    "code": ["evaluate", *CODE, "task=probe_sweep", "target=attributes"],
}


@pytest.mark.parametrize(
    ("setting", "words", "said"),
    [(setting, words, said) for setting, words, *said in MISTAKES],
    ids=[f"{setting}: {words}" for setting, words, *_ in MISTAKES],
)
def test_a_mistake_is_one_line_that_names_the_way_out(world, capfd, setting, words, said):
    before, typed = tree(world), words.split()
    door, *own = SETTINGS[setting]
    own = [w for w in own if w.partition("=")[0] not in {t.partition("=")[0] for t in typed}]
    if any(word.startswith("dataset=") for word in typed):
        own = [word for word in own if not word.startswith("dataset.")]
    closed = open_door(door, [*own, *typed], world, capfd)
    assert (closed.code, len(closed.lines)) == (2, 1), closed.lines
    assert [word for word in said if word not in closed.lines[0]] == [], closed.lines[0]
    assert tree(world) == before
