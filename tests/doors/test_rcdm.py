"""A network that is told vectors, through the real doors: learned, drawn with, judged."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.doors import QUIET, enter, open_door
from tests.tiny_dictionary import pixel_dictionary

NET = [
    *(*QUIET, "backbone=rcdm", "backbone.num_channels=32", "backbone.num_res_blocks=1"),
    *("backbone.channel_mult=[1,1]", "backbone.attention_resolutions=[]"),
    *("backbone.image_size=16", "dataset=toy_faces", "dataset.image_size=16"),
    *("dataset.train_pictures=4", "dataset.val_pictures=2", "dataset.test_pictures=6"),
    "backbone@seer=pixels",
]
TRAIN = [
    *(*NET, "task=rcdm", "backbone.checkpoint=null", "data.vectors=live", "data.batch_size=2"),
    *("callbacks.samples=null", "trainer.max_steps=2", "representation.grid=4", "test=false"),
    "data.num_workers=0",
]
DRAW = [
    *(*NET, "task=samples", "representation=pooled", "representation.grid=4"),
    *("backbone.checkpoint=run/last.ckpt", "sampler.respacing=ddim2", "model.guidance=2.0"),
]
CODES = ["representation=codes", "representation.dictionary=dictionary"]
SWITCHED = ["condition=latents", "condition.number=2", "condition.each=2", "condition.random=2"]
WAY = ["condition=interpolation", "condition.first=0", "condition.second=a.png"]
MOVED = [
    *("condition=manipulation", "condition.picture=0", "condition.target=a.png"),
    *("condition.k=4", "condition.n_common=2", "condition.floor=0.8", "condition.each=2"),
]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A folder with a run of two steps, and a picture that is no square."""
    folder = tmp_path_factory.mktemp("rcdm")
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[:, ::-1]).save(folder / "b.png")
    assert enter("train", [*TRAIN, "model.drop=0.5", "hydra.run.dir=run"], folder) == 0
    return folder


def drawn(folder, words, capfd, into):
    closed = open_door("extract", [*DRAW, *words, f"folder={into}"], folder, capfd)
    assert closed.code == 0, closed.lines
    with np.load(folder / into / "conditions.npz") as rows:
        return closed, dict(rows), stored(folder / into)


def stored(folder):
    return np.load(next(folder.glob("samples_*.npz")))["arr_0"]


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_run_goes_on_with_its_own_representation_alone(learned, capfd):
    words = [*TRAIN, "model.drop=0.5", "ckpt_path=run/last.ckpt", "trainer.max_steps=3"]
    closed = open_door("train", [*words, "hydra.run.dir=longer"], learned, capfd)
    assert closed.code == 0, closed.lines
    other = [*words, "representation.pool=max", "hydra.run.dir=other"]
    closed = open_door("train", other, learned, capfd)
    assert closed.code == 2
    assert "say representation= and its settings as before" in closed.lines[-1]


def test_pictures_are_drawn_towards_and_gone_on_with(learned, capfd):
    words = ["condition=pictures", "condition.number=2", "condition.each=2", "data.shard_size=2"]
    _, rows, _ = drawn(learned, words, capfd, "faces")
    assert rows["source"].tolist() == [0, 0, 1, 1]
    shards = sorted((learned / "faces").glob("samples_*.npz"))
    before = [path.read_bytes() for path in shards]
    shards[1].unlink()
    drawn(learned, words, capfd, "faces")
    assert [path.read_bytes() for path in shards] == before


def test_samples_are_judged_and_not_mixed(learned, capfd):
    words = ["condition=pictures", "condition.number=2", "condition.each=2", "data.shard_size=2"]
    drawn(learned, words, capfd, "faces")
    seen = [word for word in NET if not word.startswith("backbone.")]
    words = ["task=faithfulness", "samples=faces", "representation.grid=4", "hydra.run.dir=judged"]
    words += [word for word in seen if word != "backbone=rcdm"]
    closed = open_door("evaluate", words, learned, capfd)
    assert closed.code == 0, closed.lines
    (row,) = table(learned / "judged/faithfulness.csv")
    assert (row["sources"], row["gallery"], row["conditioning"]) == ("2", "6", "True")
    assert 1 <= float(row["mean_rank"]) <= 6
    words = ["condition=pictures", "condition.number=2", "condition.each=2", "data.shard_size=2"]
    words += ["folder=faces", "model.guidance=1.5"]
    closed = open_door("extract", [*DRAW, *words], learned, capfd)
    assert closed.code == 2
    assert "faces holds other samples: their guidance is 2.0" in closed.lines[-1]
    words[-1] = "representation.pool=max"
    closed = open_door("extract", [*DRAW, *words, "folder=new"], learned, capfd)
    assert closed.code == 2
    assert "say representation= and its settings as in the training" in closed.lines[-1]
    assert not (learned / "new").exists()


def test_a_way_leads_from_one_picture_to_another(learned, capfd):
    words = [*WAY, "condition.steps=3", "condition.each=2"]
    _, rows, samples = drawn(learned, words, capfd, "between")
    assert len(samples) == 6
    assert rows["start"].tolist() == [0, 0, 0, 3, 3, 3]
    assert rows["caption"].tolist() == ["0.00", "0.50", "1.00"] * 2
    first, middle, last = rows["vectors"][:3]
    np.testing.assert_allclose(middle, (first + last) / 2, rtol=1e-6, atol=1e-7)
    _, files, _ = drawn(
        learned, ["condition=pictures", "condition.path=a.png", "condition.number=1"], capfd, "a"
    )
    np.testing.assert_array_equal(last, files["vectors"][0])
    steps = [float(np.abs(a.astype(int) - b).mean()) for a, b in pairwise(samples[:3])]
    assert max(steps) < np.abs(samples[0].astype(int) - samples[3]).mean()  # of another noise
    _, squashed, _ = drawn(learned, [*words, "condition.fit=squash"], capfd, "squashed")
    assert np.abs(squashed["vectors"][2] - last).max() > 0
    sheet = Image.open(learned / "between/sheet.png")
    assert sheet.width > 2 * sheet.height  # two lines of a picture, three samples, a picture


def test_what_neighbours_share_is_taken_out_and_exchanged(learned, capfd):
    _, rows, samples = drawn(learned, MOVED, capfd, "moved")
    assert len(samples) == 6
    own, zeroed, moved = rows["vectors"][::2]
    dimensions = [int(row["dimension"]) for row in table(learned / "moved/dimensions.csv")]
    assert 0 < len(dimensions) < len(own)
    assert not zeroed[dimensions].any()
    rest = np.delete(np.arange(len(own)), dimensions)
    for changed in (zeroed, moved):
        np.testing.assert_array_equal(changed[rest], own[rest])
    target = [float(row["target"]) for row in table(learned / "moved/dimensions.csv")]
    np.testing.assert_allclose(moved[dimensions], target, rtol=1e-6)
    assert len(table(learned / "moved/neighbours.csv")) == 4
    said = json.loads((learned / "moved/samples.json").read_text())
    assert (said["condition"], said["common"], said["fit"]) == (
        "manipulation",
        [4, 2, 0.8],
        "center",
    )


def test_classes_of_folders_are_told_beside_the_vector(learned, capfd):
    """As in the original a label is the place of a picture's folder among the folders, sorted."""
    pixels = np.random.default_rng(1).integers(0, 255, (2, 2, 2, 16, 16, 3), dtype=np.uint8)
    for place, split in enumerate(("train", "test")):
        for label, name in enumerate(("ants", "bees")):
            (learned / "classes" / split / name).mkdir(parents=True)
            for number, picture in enumerate(pixels[place, label]):
                path = learned / "classes" / split / name / f"{number}.png"
                Image.fromarray(picture).save(path)
    folder = ["dataset=class_folder", "dataset.path=classes", "dataset.image_size=16"]
    folder += ["backbone.class_cond=true"]
    words = [word for word in TRAIN if not word.startswith("dataset")] + folder
    words += ["trainer.limit_val_batches=0", "hydra.run.dir=told"]
    closed = open_door("train", words, learned, capfd)
    assert closed.code == 0, closed.lines
    words = [word for word in DRAW if not word.startswith(("dataset", "backbone.ch", "model."))]
    words += [*folder, "backbone.channel_mult=[1,1]", "backbone.checkpoint=told/last.ckpt"]
    words += ["condition=pictures", "condition.number=2", "condition.each=1"]
    made = {}
    for label in (0, 1):
        closed = open_door(
            "extract", [*words, f"model.label={label}", f"folder=class_{label}"], learned, capfd
        )
        assert closed.code == 0, closed.lines
        with np.load(next((learned / f"class_{label}").glob("samples_*.npz"))) as arrays:
            assert arrays["label"].tolist() == [label] * 2
            made[label] = arrays["arr_0"]
    assert made[0].shape == made[1].shape == (2, 16, 16, 3)


def test_what_cannot_be_drawn_leaves_nothing(learned, capfd):
    words = [*MOVED, "condition.floor=0", "folder=never"]
    closed = open_door("extract", [*DRAW, *words], learned, capfd)
    assert closed.code == 2
    assert "have all 80 dimensions in common" in closed.lines[-1]
    assert not (learned / "never").exists()


def test_latents_are_switched_judged_and_shown(learned, capfd):
    """The run on codes brings its dictionary to the drawing, and the page opens."""
    pixel_dictionary(learned / "dictionary")
    seerless = [word for word in NET if word != "backbone@seer=pixels"]
    train = [
        word for word in TRAIN if word not in ("representation.grid=4", "backbone@seer=pixels")
    ]
    words = [*train, *CODES, "hydra.run.dir=codes", "dataset.train_pictures=30"]
    words += ["trainer.val_check_interval=2", "trainer.check_val_every_n_epoch=null"]
    keep = "{_target_:diffdict.results.weights.KeepWeights,name=kept}".replace("name=", "name:")
    closed = open_door("train", [*words, f"+callbacks.weights={keep}"], learned, capfd)
    assert closed.code == 0, closed.lines
    draw = [*seerless, "task=samples", "sampler.respacing=ddim2", "dataset.train_pictures=30"]
    for checkpoint in ("codes/last.ckpt", "codes/kept.safetensors"):
        own = [*draw, f"backbone.checkpoint={checkpoint}", *SWITCHED]
        closed = open_door("extract", [*own, f"folder=by_{Path(checkpoint).stem}"], learned, capfd)
        assert closed.code == 0, closed.lines
    with np.load(learned / "by_last/conditions.npz") as rows:
        assert rows["strength"].tolist() == [0, 1] * 8
        assert rows["start"].tolist() == [0, 0, 1, 1] * 4
        latents = rows["latent"].tolist()[:8:4]
        assert rows["latent"].tolist()[8:] == [-1] * 8
    lines = table(learned / "by_last/latents.csv")
    assert [row["latent"] for row in lines] == [*map(str, latents), "", ""]
    sheet = Image.open(learned / "by_last/sheet.png")
    assert sheet.height > sheet.width / 2  # four lines of four
    seen = [word for word in seerless if not word.startswith("backbone")]
    words = [*seen, "task=faithfulness", "samples=by_last", *CODES, "report=drawn"]
    closed = open_door("evaluate", [*words, "hydra.run.dir=shown"], learned, capfd)
    assert closed.code == 0, closed.lines
    rows = table(learned / "shown/latents.csv")
    assert [int(row["latent"]) for row in rows] == latents
    assert all(1 <= int(row["rank"]) <= 12 for row in rows)
    page = (learned / "shown/drawn/index.html").read_text()
    assert "<title>Latents switched on: codes</title>" in page
    words[-2:] = ["representation.latents=[0]"]
    other = [word for word in words if word != CODES[1]]
    closed = open_door("evaluate", [*other, CODES[1], "hydra.run.dir=no"], learned, capfd)
    assert closed.code == 2
    assert "representation.latents=null" in closed.lines[-1] or latents == [0]


def test_a_page_of_latents_needs_such_samples(learned, capfd):
    words = ["condition=pictures", "condition.number=2", "condition.each=2"]
    drawn(learned, words, capfd, "of_faces")
    seen = [word for word in NET if not word.startswith(("backbone.", "backbone="))]
    words = [*seen, "task=faithfulness", "samples=of_faces", "report=drawn"]
    closed = open_door("evaluate", [*words, "hydra.run.dir=no_page"], learned, capfd)
    assert closed.code == 2
    assert "condition=latents draws such" in closed.lines[-1]
