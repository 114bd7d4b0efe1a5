"""Probes of whole pictures through the real doors, on networks of sixteen pixels."""

import csv
import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from diffdict.features.store import FeatureStore
from tests.data.test_cifar import write as write_cifar
from tests.doors import NET, QUIET, open_door
from tests.test_bad_input import tree

FACES = [
    *("dataset.image_size=16", "dataset.train_pictures=16", "dataset.val_pictures=0"),
    *("dataset.test_pictures=8",),
]
PLACE = ["timestep=[10,500]", "block=[0,1]", "noise.shared=false"]
CLASSES = ["dataset=class_folder", "dataset.path=colours", "dataset.image_size=16"]
SMALL = [*QUIET, "backbone=toy_ddpm", *NET, *PLACE]
LEARN = ["task=linear_probe", "data.batch_size=4", "data.num_workers=0", "trainer.max_epochs=2"]


def write_colours(folder):
    """Class folders of eight training and four test pictures a colour."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for channel, name in enumerate(("red", "green", "blue")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 90, (16, 16, 3), dtype=np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with pictures in class folders, and others that are none."""
    folder = tmp_path_factory.mktemp("world")
    write_colours(folder / "colours")
    shutil.copytree(folder / "colours", folder / "differ")
    (folder / "differ" / "test" / "red").rename(folder / "differ" / "test" / "rot")
    write_wrong(folder)
    (folder / "python").mkdir()
    (folder / "python" / "data_batch_1").write_bytes(pickle.dumps({}))
    return folder


def write_wrong(folder):
    """Class folders, archives and arrays with a mistake each."""
    for name in ("broken", "empty", "loop", "alone", "fewer"):
        shutil.copytree(folder / "colours", folder / name)
    (folder / "broken" / "train" / "red" / "0.png").write_bytes(b"no picture")
    for path in (folder / "empty" / "train" / "blue").iterdir():
        path.unlink()
    (folder / "loop" / "train" / "red" / "back").symlink_to("..", target_is_directory=True)
    for split in ("train", "test"):
        for name in ("green", "blue"):
            shutil.rmtree(folder / "alone" / split / name)
        shutil.rmtree(folder / "fewer" / split / "blue")
    for name, missing in (("cut", None), ("lacks", "data_batch_3.bin")):
        write_cifar(folder / name)
        if missing:
            (folder / name / missing).unlink()
    batch = folder / "cut" / "data_batch_2.bin"
    batch.write_bytes(batch.read_bytes()[:-7])
    write_cifar(folder / "hundred", 100)
    for name in ("unannotated", "unnamed"):
        (folder / name / "val" / "images").mkdir(parents=True)
        (folder / name / "train" / "n01" / "images").mkdir(parents=True)
        Image.new("L", (64, 64)).save(folder / name / "val" / "images" / "0.JPEG")
        (folder / name / "wnids.txt").write_text("n01\n")
        (folder / name / "words.txt").write_text("n01\tcat\n")
    (folder / "unnamed" / "val" / "val_annotations.txt").write_text("1.JPEG\tn01\t0\t0\t9\t9\n")
    images = np.zeros((24, 16, 16, 3), np.uint8)
    np.savez(folder / "outside.npz", images=images, labels=np.arange(24) % 4)


def opened(door, words, folder, capfd):
    closed = open_door(door, words, folder, capfd)
    assert closed.code == 0, closed.lines


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_what_is_in_a_face_is_mapped(world, capfd):
    words = [*SMALL, *FACES, "task=probe_sweep", "target=presence", "data.least_pixels=3"]
    opened("evaluate", [*words, "hydra.run.dir=presence"], world, capfd)
    rows = rows_of(world / "presence" / "cells.csv")
    assert [(row["timestep"], row["block"]) for row in rows] == [
        ("10", "0"),
        ("10", "1"),
        ("500", "0"),
        ("500", "1"),
    ]
    assert all(0 < float(row["average_precision"]) <= 1 for row in rows)
    results = json.loads((world / "presence" / "results.json").read_text())
    assert "test/t0010-b00/average_precision" in results["metrics"]
    assert "hat" in results["facts"]["class_names"]
    assert (world / "presence" / "heatmap.png").is_file()


def test_classes_by_a_store_are_those_by_the_network_at_work(world, capfd):
    words = [*SMALL, *CLASSES]
    opened("extract", words, world, capfd)
    probe = [*words, "task=probe_sweep"]
    opened("evaluate", [*probe, "hydra.run.dir=live"], world, capfd)
    opened("evaluate", [*probe, "data.source=store", "hydra.run.dir=stored"], world, capfd)
    live, stored = (rows_of(world / run / "cells.csv") for run in ("live", "stored"))
    assert [float(row["sigma"]) for row in live] == pytest.approx([0.0469] * 2 + [3.443] * 2, 1e-3)
    assert stored == [row | {"sigma": ""} for row in live]  # what a network's store does not say
    opened("extract", [*words, "pool=mean", "storage=fp32"], world, capfd)
    mean = ["data.source=store", "pool=mean", "data.num_workers=0"]
    opened("evaluate", [*probe, *mean[:2], "hydra.run.dir=mean"], world, capfd)
    pooled = rows_of(world / "mean" / "cells.csv")
    assert pooled == [row | {"height": "1", "width": "1"} for row in stored]
    store = world / "features" / "class_folder" / "toy_ddpm"
    for split in ("train", "test"):
        whole, vectors = (FeatureStore.open(store / name) for name in (split, f"{split}-mean"))
        for cell in ("t0010-b00", "t0010-b01", "t0500-b00", "t0500-b01"):
            tokens, vector = (one.mapped(cell, 0).x.float() for one in (whole, vectors))
            rounding = tokens.abs().mean(1) * 2**-11 + 1e-6  # of whole maps to fp16
            assert ((tokens.mean(1) - vector[:, 0]).abs() <= rounding).all()
    learn = [*words, *LEARN, *mean, "data.flip=false", "data.crop_padding=0"]
    opened("train", [*learn, "hydra.run.dir=heads"], world, capfd)
    rows = rows_of(world / "heads" / "cells.csv")
    assert [row["channels"] for row in rows] == ["32"] * 4
    assert max(float(row["accuracy"]) for row in live) > 0.6  # chance is a third


def test_heads_are_trained_measured_again_and_asked_about_a_picture(world, capfd):
    words = [*SMALL, *CLASSES, *LEARN, "model.optimizer.lr=0.05"]
    opened("train", [*words, "hydra.run.dir=probe"], world, capfd)
    opened("evaluate", [*QUIET, "ckpt_path=probe/last.ckpt", "hydra.run.dir=again"], world, capfd)
    first, again = (rows_of(world / run / "cells.csv") for run in ("probe", "again"))
    assert first == again
    assert [row["chosen"] for row in first].count("True") == 1
    assert (world / "probe" / "last.ckpt").stat().st_size < 200_000
    picture = "picture=colours/test/red/0.png"
    asked = [*QUIET, "ckpt_path=probe/last.ckpt", picture, "hydra.run.dir=seen"]
    opened("evaluate", asked, world, capfd)
    told = rows_of(world / "seen" / "picture" / "picture.csv")
    assert {row["class"] for row in told} == {"red", "green", "blue"}
    assert sum(float(row["probability"]) for row in told) == pytest.approx(1, abs=1e-5)
    part = ["trainer.max_steps=2", "test=false", "hydra.run.dir=part"]
    opened("train", [*words, *part], world, capfd)
    before = tree(world)
    for door, run, typed, said in (
        ("evaluate", "probe", "block=[0]", "heads of cells t0010-b00, t0010-b01"),
        ("evaluate", "probe", "dataset=class_folder dataset.path=fewer", "heads of classes blue"),
        ("train", "part", "block=[0]", "heads of cells t0010-b00, t0010-b01"),
        ("train", "part", "model.rates=[1]", "heads of rates 0.05, here they are 1.0"),
        ("train", "part", "model.optimizer.lr=1", "heads of rates 0.05, here they are 1.0"),
        ("train", "part", "data.batch_size=5", "batch_size = 4, and this run has 5"),
    ):
        settings = {"evaluate": QUIET, "train": words}[door]
        asked = [*settings, f"ckpt_path={run}/last.ckpt", *typed.split()]
        closed = open_door(door, asked, world, capfd)
        assert (closed.code, len(closed.lines)) == (2, 1), (typed, closed.lines)
        assert said in closed.lines[0]
    assert tree(world) == before


def test_heads_are_learned_again_from_kept_features(world, capfd):
    words = [*SMALL, *CLASSES, *LEARN, "keep=true", "paths.features=kept"]
    opened("train", [*words, "hydra.run.dir=first"], world, capfd)
    opened("train", [*words, "hydra.run.dir=second"], world, capfd)
    first, second = (rows_of(world / run / "cells.csv") for run in ("first", "second"))
    assert first == second
    again = [*words, "model.rates=[1e-3,0.05]", "model.normalize=true", "hydra.run.dir=third"]
    again.append("model.joined=all")
    opened("train", again, world, capfd)
    rows = rows_of(world / "third" / "cells.csv")
    assert {row["rate"] for row in rows} <= {"0.001", "0.05"}
    assert (rows[-1]["block"], rows[-1]["channels"]) == ("joined", "128")
    joined = ["hydra.run.dir=third_again", "ckpt_path=third/last.ckpt", "paths.features=kept"]
    opened("evaluate", [*QUIET, *joined, "report=heatmap"], world, capfd)
    assert rows_of(world / "third_again" / "cells.csv") == rows
    shutil.copytree(world / "kept", world / "torn")
    part = next((world / "torn").rglob("train-0000/t0010-b00/*.safetensors"))
    part.write_bytes(part.read_bytes()[:-7])
    before = tree(world)
    for typed, *said in (
        ("noise.seed=3", '"seed": 3', "paths.features="),
        ("data.seed=1", '"order": 1', "paths.features="),
        ("paths.features=torn", "is cut or torn", "kept/train-0000, and this run"),
        ("data.flip=false", '"flip": false', "paths.features="),
        ("backbone.use_scale_shift_norm=false", "use_scale_shift_norm is", "backbone.name="),
        ("block=[2]", "none of t0010-b02", "block="),
        ("data.drop_last=true trainer.max_epochs=3", "drop_last=true leaves", "drop_last=false"),
        ("data.source=store data.flip=false data.crop_padding=0", "stored already", "keep=false"),
        ("keep=perhaps", "got 'perhaps'", "keep=…"),
    ):
        closed = open_door("train", [*words, *typed.split()], world, capfd)
        assert (closed.code, len(closed.lines)) == (2, 1), (typed, closed.lines)
        assert [word for word in said if word not in closed.lines[0]] == [], closed.lines[0]
    assert tree(world) == before


def test_a_picture_that_breaks_an_epoch_leaves_what_was_learned_before_it(world, capfd):
    shutil.copytree(world / "colours", world / "later")
    broken, run = world / "later" / "train" / "red" / "0.png", world / "mended"
    whole = broken.read_bytes()
    broken.write_bytes(b"no picture")
    words = [*SMALL, "dataset=class_folder", "dataset.path=later", "dataset.image_size=16", *LEARN]
    closed = open_door("train", [*words, "hydra.run.dir=mended"], world, capfd)
    assert (closed.code, len(closed.lines)) == (2, 1)
    assert "later/train/red/0.png" in closed.lines[0]
    assert sorted(path.name for path in run.glob("*.ckpt")) == ["last.ckpt", "step=1.ckpt"]
    assert not [*run.glob("*.tmp"), *run.glob("*.csv"), *run.glob("results.json")]
    broken.write_bytes(whole)
    opened("train", [*words, "ckpt_path=mended/last.ckpt", "hydra.run.dir=mended"], world, capfd)
    opened("train", [*words, "hydra.run.dir=straight"], world, capfd)
    assert rows_of(run / "cells.csv") == rows_of(world / "straight" / "cells.csv")


def test_geometry_of_every_block(world, capfd):
    words = [*SMALL, *CLASSES, "task=geometry", "data.num_workers=0", "model.group=8"]
    opened("evaluate", [*words, "hydra.run.dir=sphere"], world, capfd)
    rows = rows_of(world / "sphere" / "cells.csv")
    assert len(rows) == 4
    assert all(float(row["alignment"]) > 0 > float(row["uniformity"]) for row in rows)
    assert (world / "sphere" / "heatmap.png").is_file()


SWEEP = "task=probe_sweep"
MISTAKES = [
    ("evaluate", f"{SWEEP} target=class", "toy_faces have none", "target=presence"),
    ("evaluate", f"{SWEEP} target=shape", "got 'shape'", "target=null"),
    ("evaluate", f"{SWEEP} target=presence model.prevalence=[1,0]", "[1, 0]", "[0.05,0.95]"),
    ("evaluate", f"{SWEEP} target=presence data.least_pixels=0", "got 0", "least_pixels=1"),
    ("evaluate", f"{SWEEP} target=presence model.prevalence=[0.4,0.41]", "No class", "widen"),
    ("classes", f"{SWEEP} target=presence", "class_folder have none", "target=class"),
    ("classes", f"{SWEEP} target=pixels", "class_folder have none", "target=class"),
    ("classes", f"{SWEEP} dataset.path=differ", "has red, rot", "a folder for each class"),
    ("classes", f"{SWEEP} dataset.path=gone", "No folder gone/train", "dataset.path=…"),
    ("classes", f"{SWEEP} dataset.train_pictures=1", "fitted on 0", "train_pictures="),
    ("classes", f"{SWEEP} dataset.path=broken", "red/0.png", "replace it or take it out"),
    ("classes", f"{SWEEP} dataset.path=empty", "of class blue", "take the folder out"),
    ("classes", f"{SWEEP} dataset.path=loop", "links to a folder", "take the link out"),
    ("classes", f"{SWEEP} dataset.path=alone", "the 6 pictures fitted on show red", "give more"),
    (
        "classes",
        f"{SWEEP} data.source=store paths.features=no pool=mean",
        "extract.py",
        "pool=mean",
    ),
    ("classes", f"{SWEEP} data.source=store pool=max", "got 'max'", "pool=mean"),
    ("evaluate", f"{SWEEP} target=pixels pool=mean", "about pixels", "leave pool= out"),
    ("learn", "dataset.path=alone", "two classes or more apart, got 1", "a data set of more"),
    ("learn", "dataset.path=broken data.batch_size=24", "red/0.png", "replace it or take it out"),
    ("learn", "data.val_share=null", "leaves no picture to choose", "data.val_share=0.1"),
    ("learn", "data.label_share=0", "got 0", "data.label_share=0.1"),
    ("learn", "data.copies=0", "got 0", "data.copies=1"),
    ("learn", "data.source=store", "data.flip=false data.crop_padding=0", "data.source=live"),
    ("learn", "data.source=shelf data.flip=false data.crop_padding=0", "got 'shelf'", "live"),
    ("arrays", "dataset.num_classes=3", "holds label 3, its 3 classes", "dataset.num_classes"),
    ("tiny", "dataset.path=unannotated", "val_annotations.txt", "tiny-imagenet-200.zip"),
    ("tiny", "dataset.path=unnamed", "no class for 0.JPEG", "take the picture out"),
    ("tiny", "dataset.path=colours", "no file colours/wnids.txt", "dataset.path=…"),
    ("cifar", "dataset.path=cut", "data_batch_2.bin has 12285 bytes", "unpack the archive"),
    ("cifar", "dataset.path=lacks", "no file lacks/data_batch_3.bin", "unpack the archive"),
    ("cifar", "dataset.path=hundred", "it is CIFAR-100", "dataset=cifar100"),
    ("train", "target=pixels", "task=pixel_mlp", "target=class or target=presence"),
    ("train", "target=class", "toy_faces have none", "target=presence"),
    ("train", "model.rates=[-1]", "got [-1]", "[1e-3,4e-3]"),
    ("train", "model.decay=slow", "got 'slow'", "cosine"),
    ("train", "data.val_share=1", "got 1", "between 0 and 1"),
    ("train", "dataset.train_pictures=1", "1 training pictures", "train_pictures="),
    ("train", "block=9", "has no block 9", "Its blocks"),
    ("train", "model.joined=[t0010-b07]", "names t0010-b07", "model.joined=all"),
    ("train", "model.joined=all timestep=10 block=0", "got t0010-b00", "several in timestep="),
    ("train", "dataset=folder dataset.path=colours", "no labels", "a labelled dataset"),
    ("evaluate", "task=geometry model.group=1", "got 1", "null for all"),
    ("evaluate", "task=geometry model.t=0", "got 2 and 0", "positive"),
    ("evaluate", "task=geometry data.test_split=tset", "no split 'tset'", "train, val, test"),
    ("cifar", "dataset.path=python", "a pickle, which is never opened", "the binary version"),
    ("cifar", "dataset.path=colours", "has no batches.meta.txt", "dataset.path=…"),
    ("cifar", "", "No pictures of cifar10", "dataset.download=true"),
    ("cifar", "dataset.classes=20", "got 20", "dataset=cifar10"),
]
SETTINGS = {
    "evaluate": [*SMALL, *FACES],
    "classes": [*SMALL, *CLASSES],
    "train": [*SMALL, *FACES, *LEARN],
    "learn": [*SMALL, *CLASSES, *LEARN],
    "arrays": [
        *(*SMALL, *LEARN, "dataset=npz", "dataset.path=outside.npz", "dataset.image_size=16"),
        *("dataset.train_pictures=18", "dataset.test_pictures=6"),
    ],
    "tiny": [*SMALL, "task=geometry", "dataset=tiny_imagenet", "data.test_split=test"],
    "cifar": [*SMALL, "task=geometry", "dataset=cifar10", "data.num_workers=0"],
}


@pytest.mark.parametrize(
    ("setting", "words", "said"),
    [(setting, words, said) for setting, words, *said in MISTAKES],
    ids=[f"{setting}: {words}" for setting, words, *_ in MISTAKES],
)
def test_a_mistake_is_one_line_that_names_the_way_out(world, capfd, setting, words, said):
    door = "train" if setting in ("train", "learn", "arrays") else "evaluate"
    before = tree(world)
    typed = words.split()
    own = [
        w
        for w in SETTINGS[setting]
        if not w.startswith(tuple(f"{t.split('=')[0]}=" for t in typed))
    ]
    if "dataset=folder" in typed:
        own = [word for word in own if not word.startswith("dataset.")]
    closed = open_door(door, [*own, *typed], world, capfd)
    assert (closed.code, len(closed.lines)) == (2, 1), closed.lines
    assert [word for word in said if word not in closed.lines[0]] == [], closed.lines[0]
    assert tree(world) == before
