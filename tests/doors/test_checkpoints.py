"""The real doors along a training: every checkpoint measured once and drawn over its steps."""

import csv

from tests.doors import FACES, QUIET, open_door

NET = [
    *(*QUIET, "dataset=toy_faces", *FACES, "backbone.ch_mults=[1,1]", "backbone.n_blocks=1"),
    *("backbone.is_attn=[false,true]", "data.num_workers=0"),
]
TRAIN = [
    *("experiment=ddae_small", *NET, "data.batch_size=2", "model.compile=false", "test=false"),
    *("trainer.precision=32-true", "trainer.limit_val_batches=0", "callbacks.samples=null"),
    *("trainer.max_steps=4", "callbacks.checkpoint.every_n_train_steps=2", "hydra.run.dir=ddae"),
]
MEASURE = [
    *("task=geometry", "backbone=ddae_small", *NET, "report=none", "checkpoints=ddae"),
    "hydra.run.dir=geometry",
]


def times(folder):
    """When the results of each job were written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/results.json")}


def test_every_checkpoint_is_measured_once_and_a_broken_one_stops_no_other(tmp_path, capfd):
    assert open_door("train", TRAIN, tmp_path, capfd).code == 0
    (tmp_path / "ddae/step=3.ckpt").write_bytes(b"cut off")
    closed = open_door("evaluate", MEASURE, tmp_path, capfd)
    assert closed.code == 2
    (said,) = (line for line in closed.lines if line.startswith("evaluate: ddae/step=3.ckpt"))
    assert "1 of 3 jobs failed" in closed.lines[-1], said
    before = times(tmp_path / "geometry")
    assert sorted(path.parent.name for path in before) == ["2", "4"]

    (tmp_path / "ddae/step=3.ckpt").unlink()
    closed = open_door("evaluate", MEASURE, tmp_path, capfd)
    assert closed.code == 0, closed.lines
    left = [line for line in closed.lines if line.endswith("has its results: left as it is")]
    assert len(left) == 2
    assert times(tmp_path / "geometry") == before

    check_samples_along_the_training(tmp_path, capfd)
    words = ["report=curve", "x=backbone.step", "runs=geometry", "hydra.run.dir=curve"]
    closed = open_door("evaluate", words, tmp_path, capfd)
    assert closed.code == 0, closed.lines
    with (tmp_path / "curve/curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["block"], row["backbone.step"]) for row in rows] == [
        (block, step) for block in "1234" for step in "24"
    ]
    assert all(float(row["test/alignment"]) > 0 > float(row["test/uniformity"]) for row in rows)


def check_samples_along_the_training(folder, capfd):
    """Drawn from every checkpoint, measured in the features of the last, and drawn over steps."""
    draw = ["task=samples", "backbone=ddae_small", *NET[:-1], "checkpoints=ddae", "data.number=4"]
    draw += ["sampler.respacing=ddim2", "hydra.run.dir=drawing"]
    closed = open_door("extract", draw, folder, capfd)
    assert closed.code == 0, closed.lines
    drawn = folder / "samples/ddae_small"
    assert sorted(path.name for path in drawn.iterdir()) == ["step-2", "step-4"]

    measure = ["task=fid", "backbone=ddae_small", "backbone.checkpoint=ddae/last.ckpt", *NET]
    measure += ["block=[1,2]", "samples=samples/ddae_small", "checkpoints=ddae"]
    measure += ["hydra.run.dir=distance"]
    closed = open_door("evaluate", measure, folder, capfd)
    assert closed.code == 0, closed.lines
    assert sorted(path.parent.name for path in times(folder / "distance")) == ["2", "4"]
    words = ["report=curve", "x=backbone.step", "runs=distance", "hydra.run.dir=distance_curve"]
    closed = open_door("evaluate", words, folder, capfd)
    assert closed.code == 0, closed.lines
    with (folder / "distance_curve/curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["block"], row["backbone.step"]) for row in rows] == [
        (block, step) for block in "12" for step in "24"
    ]
    assert all(float(row["test/frechet"]) > 0 for row in rows)
