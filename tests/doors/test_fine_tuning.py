"""The real doors of task=fine_tuning, on a network of sixteen pixels."""

import csv

import pytest

from tests.doors import NET, QUIET, enter, open_door
from tests.test_bad_input import tree
from tests.test_probe_doors import CLASSES, write_colours

TUNE = [
    *(*QUIET, "backbone=toy_ddpm", *NET, "timestep=10", "block=1", *CLASSES, "task=fine_tuning"),
    *("data.batch_size=4", "data.num_workers=0", "trainer.max_steps=8", "model.warmup_steps=2"),
]


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def opened(door, words, folder, capfd):
    closed = open_door(door, words, folder, capfd)
    assert closed.code == 0, closed.lines


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_colours(folder / "colours")
    assert enter("train", [*TUNE, "trainer.max_steps=7", "hydra.run.dir=part"], folder) == 0
    return folder


def test_a_network_is_tuned_resumed_measured_again_and_taken_for_another(world, capfd):
    opened("train", [*TUNE, "hydra.run.dir=tuned"], world, capfd)
    opened("evaluate", [*QUIET, "ckpt_path=tuned/last.ckpt", "hydra.run.dir=again"], world, capfd)
    (row,) = rows_of(world / "tuned/cells.csv")
    assert [row] == rows_of(world / "again/cells.csv")
    assert (row["timestep"], row["block"], row["start"]) == ("10", "1", "scratch")
    assert row["train_pictures"] == "24"
    part = ["callbacks.checkpoint.every_n_train_steps=3", "callbacks.checkpoint.save_top_k=-1"]
    opened("train", [*TUNE, *part, "hydra.run.dir=parts"], world, capfd)
    resume = ["ckpt_path='parts/step=3.ckpt'", "hydra.run.dir=resumed"]
    opened("train", [*TUNE, *resume], world, capfd)
    assert [row] == rows_of(world / "parts/cells.csv") == rows_of(world / "resumed/cells.csv")
    asked = ["ckpt_path=tuned/last.ckpt", "picture=colours/test/red/0.png", "hydra.run.dir=seen"]
    opened("evaluate", [*QUIET, *asked], world, capfd)
    assert len(rows_of(world / "seen/picture/picture.csv")) == 3
    words = [word for word in TUNE if word != "backbone.checkpoint=null"]
    more = ["backbone.checkpoint=tuned/last.ckpt", "data.label_share=0.25", "hydra.run.dir=more"]
    opened("train", [*words, *more], world, capfd)
    (more,) = rows_of(world / "more/cells.csv")
    assert (len(more["start"]), more["train_pictures"]) == (64, "6")


def test_few_labels_are_swept_and_drawn(world, capfd):
    words = ["-m", "data.label_share=0.25,1", *TUNE, "hydra.sweep.dir=few"]
    opened("train", words, world, capfd)
    words = ["report=curve", "x=data.label_share", "runs=few", "hydra.run.dir=curve"]
    opened("evaluate", words, world, capfd)
    rows = rows_of(world / "curve/curve.csv")
    assert [row["data.label_share"] for row in rows] == ["0.25", "1"]
    assert all(0 <= float(row["test/accuracy"]) <= 1 for row in rows)


MISTAKES = [
    ("train", "block=[0,1]", "got 2 of block=", "block=0"),
    ("train", "timestep=[10,20]", "got 2 of timestep=", "timestep=10"),
    ("train", "timestep=1000", "between 0 and 999, got 1000", "timestep="),
    ("train", "data.label_share=0", "got 0", "data.label_share=0.1"),
    ("train", "data.label_share=2", "got 2", "data.label_share=0.1"),
    ("train", "model.net_rate=-1", "got -1", "1e-4"),
    ("train", "model.decay=slow", "got 'slow'", "cosine"),
    ("train", "target=presence", "class_folder have none", "target=class"),
    ("train", "ckpt_path=part/last.ckpt block=0", "cell t0010-b01, here it is t0010-b00", "anew"),
    ("train", "ckpt_path=part/last.ckpt data.batch_size=5", "batch_size = 4", "resume with 4"),
    ("evaluate", "task=fine_tuning", "ckpt_path=outputs/", "what it has learned"),
]


@pytest.mark.parametrize(("door", "words", "said", "way_out"), MISTAKES)
def test_mistakes_are_one_line(world, capfd, door, words, said, way_out):
    before, typed = tree(world), words.split()
    keys = tuple(f"{word.partition('=')[0]}=" for word in typed)
    asked = [word for word in TUNE if not word.startswith(keys)] if door == "train" else QUIET
    closed = open_door(door, [*asked, *typed], world, capfd)
    assert (closed.code, len(closed.lines)) == (2, 1), closed.lines
    assert said in closed.lines[0]
    assert way_out in closed.lines[0]
    assert tree(world) == before
