"""task=faithfulness: copies of their sources are perfect, others are chance, in any gallery."""

import json
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from diffdict.backbones.pixels import Pixels
from diffdict.conditions.base import plain_rows
from diffdict.conditions.rows_file import write_rows
from diffdict.data.compared import ComparedPictures
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.reports.drawing.colours import as_bytes
from diffdict.representations.pooled import Pooled
from diffdict.tasks.faithfulness import Faithfulness

FACES = partial(ToyFaces, image_size=16, train_pictures=2, val_pictures=2)
EACH = 3


def seer(grid=4):
    return Pooled(Pixels(image_size=16), None, ["pixels"], grid=grid)


def folder_of(path, source, shown, faces, record=None):
    """Samples that are copies of pictures `shown`, said to be of pictures `source`."""
    path.mkdir(exist_ok=True)
    pictures = torch.stack([faces[index]["image"] for index in range(max(source) + 1)])
    images = torch.stack([faces[index]["image"] for index in shown])
    number = len(source)
    np.savez(path / f"samples_000000-{number - 1:06d}.npz", arr_0=as_bytes(images))
    facts = {"number": number, "shard_size": number, "format": "npz", "condition": "pictures"}
    facts |= {"pictures": faces.fingerprint, "vectors_sha256": seer().sha256} | (record or {})
    (path / "samples.json").write_text(json.dumps(facts))
    names = [f"face {index}" for index in source]
    write_rows(path, plain_rows(torch.zeros(number, 3), names, source, pictures))
    return path


def measured(path, faces, maker=None):
    split = lambda split, image_size=16: faces  # noqa: E731
    data = ComparedPictures(split, samples=str(path), batch_size=7, num_workers=0)
    facts = data.facts
    task = Faithfulness(maker or seer(), str(path), facts["real"], facts["sampled"])
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", **quiet)
    trainer.test(task, data, verbose=False)
    return task.tables()


@pytest.fixture(scope="module")
def faces():
    return FACES(split="test", test_pictures=40)


SOURCE = np.repeat(np.arange(20), EACH).tolist()


def test_copies_of_their_sources_are_perfect(tmp_path, faces):
    with pytest.warns(UserWarning, match="judges itself"):
        tables = measured(folder_of(tmp_path / "s", SOURCE, SOURCE, faces), faces)
    (row,) = tables["faithfulness"]
    assert (row["mean_rank"], row["mrr"], row["top1"], row["top5"]) == (1, 1, 1, 1)
    assert (row["sources"], row["gallery"], row["chance_rank"]) == (20, 40, 20.5)
    assert row["distance_own"] < 1e-4 < row["distance_crop"] < row["distance_other"]
    assert row["cosine_own"] == pytest.approx(1, abs=1e-5)
    assert row["variance_kept"] == pytest.approx(1)
    assert row["conditioning"]
    assert len(tables["sources"]) == 20
    assert tables["sources"][3]["picture"] == "face 3"
    assert len(tables["dimensions"]) == seer().dim


def test_pictures_of_others_are_chance(tmp_path, faces):
    shown = np.random.default_rng(0).permutation(40)[np.arange(60) % 40].tolist()
    tables = measured(folder_of(tmp_path / "s", SOURCE, shown, faces), faces, seer(grid=2))
    (row,) = tables["faithfulness"]
    assert abs(row["mean_rank"] - 20.5) < 5
    assert row["top1"] < 0.2
    assert abs(row["distance_own"] / row["distance_other"] - 1) < 0.2
    assert abs(row["variance_kept"]) < 0.25
    assert not row["conditioning"]


def test_another_split_is_sought_among_with_the_sources_put_before_it(tmp_path, faces):
    """Of those that are the sources themselves each counts once."""
    path = folder_of(tmp_path / "s", SOURCE, SOURCE, faces)
    more = FACES(split="test", test_pictures=55)
    (row,) = measured(path, more)["faithfulness"]
    assert (row["gallery"], row["mean_rank"], row["top1"]) == (55, 1, 1)
    others = FACES(split="test", test_pictures=10, seed=5)
    (row,) = measured(path, others)["faithfulness"]
    assert (row["gallery"], row["mean_rank"]) == (30, 1)


def test_figures_that_there_are_not_are_left_out(tmp_path, faces):
    path = folder_of(tmp_path / "s", [0, 1], [0, 1], faces)
    with pytest.warns(UserWarning, match=r"are of 2 pictures|one sample"):
        tables = measured(path, faces)
    assert tables["faithfulness"][0]["variance_kept"] is None
    assert "dimensions" not in tables


def test_what_cannot_be_judged_is_said(tmp_path, faces):
    path = folder_of(tmp_path / "s", [0, 1], [0, 1], faces)
    with pytest.raises(UserError, match="is of 2 samples, the folder holds 3"):
        Faithfulness(seer(), str(path), {"pictures": 40}, {"pictures": 3})
    folder_of(path, [0, 1], [0, 1], faces, {"condition": "interpolation"})
    with pytest.raises(UserError, match="drawn with condition=interpolation"):
        measured(path, faces)
    (path / "conditions.npz").unlink()
    with pytest.raises(UserError, match=r"has no conditions\.npz"):
        measured(path, faces)
