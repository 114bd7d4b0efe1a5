"""task=faithfulness: copies of their sources are perfect, others are chance, in any gallery."""

import copy
import json
import warnings
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.pixels import Pixels
from diffdict.conditions.base import plain_rows
from diffdict.conditions.sources.rows_file import write_rows
from diffdict.data.compared import ComparedPictures
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.reports.drawing.colours import as_bytes
from diffdict.representations.codes import PooledCodes
from diffdict.representations.pooled import Pooled
from diffdict.results.tables import as_csv
from diffdict.tasks.faithfulness import Faithfulness
from tests.tiny_dictionary import pixel_dictionary

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


def measured(path, faces, maker=None, learned=None, **options):
    """The tables; attributes are read where there are faces `learned` from."""
    made = {"train": learned, "test": faces}
    split = lambda split, image_size=16: made[split]  # noqa: E731
    number = 0 if learned is None else len(learned)
    data = ComparedPictures(
        split, samples=str(path), batch_size=7, num_workers=0, learned_pictures=number
    )
    names = ("real", "sampled", "learned", "attributes", "sampled_classes")
    facts = {name: data.facts[name] for name in names}
    task = Faithfulness(maker or seer(), str(path), **facts, **options)
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


def test_samples_of_one_source_and_other_noises_are_the_floors(tmp_path, faces):
    path = folder_of(tmp_path / "s", SOURCE, SOURCE, faces)
    (row,) = measured(path, faces, seer(grid=2))["faithfulness"]
    assert row["distance_samples"] < 1e-6
    assert row["distance_noise"] is None  # pixels are seen through none
    others = np.roll(SOURCE, 1).tolist()
    (row,) = measured(folder_of(tmp_path / "o", SOURCE, others, faces), faces)["faithfulness"]
    vectors = seer().vectors(torch.stack([faces[i]["image"] for i in others])).double()
    pairs = [
        (vectors[i] - vectors[j]).square().sum()
        for first in range(0, 60, EACH)
        for i in range(first, first + EACH)
        for j in range(first, i)
    ]
    assert row["distance_samples"] == pytest.approx(float(torch.stack(pairs).mean()), rel=1e-4)
    torch.manual_seed(0)
    unet = GuidedUNet(16, 32, 1, channel_mult="1,1", attention_resolutions="8", name="tiny")
    noisy = Pooled(unet, 50, [1])
    (row,) = measured(path, faces, noisy)["faithfulness"]
    images = torch.stack([faces[i]["image"] for i in range(20)])
    other = Pooled(unet, 50, [1], {"seed": 1})
    apart = (noisy.vectors(images) - other.vectors(images)).square().sum(1).mean()
    assert row["distance_noise"] == pytest.approx(float(apart), rel=1e-3)
    assert 0 < row["distance_noise"] < row["distance_other"]


def test_copies_keep_their_attributes(tmp_path, faces):
    """As well as they are read off the sources themselves; with other readers than the told."""
    learned = FACES(split="train", train_pictures=300)
    path = folder_of(tmp_path / "s", SOURCE, SOURCE, faces)
    readers = lambda: {"cells": seer(8), "whole": seer(1)}  # noqa: E731
    tables = measured(path, faces, learned=learned, readers=readers)
    rows = {row["attribute"]: row for row in tables["attributes"]}
    assert len(rows) == len(faces.attributes)
    wall = next(row for name, row in rows.items() if name.startswith("wall"))
    assert wall["figure"] == "pearson"
    assert wall["source_by"] == "truth"
    assert min(wall["reader"], wall["vector_tells"], wall["samples_keep"]) > 0.6
    assert wall["chance"] < 0.5
    assert wall["variance_kept"] == pytest.approx(1)
    assert tables["faithfulness"][0]["attributes_kept"] > 0
    strangers = FACES(split="test", test_pictures=40, seed=3)
    rows = measured(path, strangers, learned=learned, readers=readers)["attributes"]
    assert {row["source_by"] for row in rows} == {"reading"}
    again = next(row for row in rows if row["attribute"] == wall["attribute"])
    assert again["samples_keep"] == pytest.approx(1, abs=0.01)  # read off the same pictures


def test_a_reader_that_is_what_was_told_is_said(tmp_path, faces):
    path = folder_of(tmp_path / "s", SOURCE, SOURCE, faces)
    with pytest.warns(UserWarning, match=r"Attributes are read off .* judges itself"):
        measured(path, faces, learned=FACES(split="train", train_pictures=120))


def test_too_few_faces_to_learn_from_are_said(tmp_path, faces):
    path = folder_of(tmp_path / "s", SOURCE, SOURCE, faces)
    with pytest.warns(UserWarning, match="are left out: 2 training pictures"):
        tables = measured(path, faces, learned=FACES(split="train"))
    assert "attributes" not in tables


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    return PooledCodes(pixel_dictionary(tmp_path_factory.mktemp("dictionary") / "out"))


def switched_folder(path, faces, codes, own, masks=True):
    """Latent `own` off and on in eight noises: faces with the least of it, and with the most.

    Along two random directions nothing changes. On labelled samples a class grows by a quarter.
    """
    vectors = codes.vectors(torch.stack([faces[i]["image"] for i in range(len(faces))]))
    order = vectors[:, codes.latents.index(own)].argsort().tolist()
    pairs = list(zip(order[:8], reversed(order[-8:]), strict=True))
    shown = [index for pair in pairs for index in pair] + [0, 0] * 16
    line = [0] * 16 + [1] * 16 + [2] * 16
    number, noises = len(shown), [noise for noise in range(8) for _ in (0, 1)] * 3
    path.mkdir()
    arrays = {"arr_0": as_bytes(torch.stack([faces[index]["image"] for index in shown]))}
    if masks:
        labels = np.zeros((number, 16, 16), dtype=np.uint8)
        labels[:, :4] = 1
        labels[1:16:2, :8] = 1
        arrays |= {"arr_1": labels, "arr_2": np.zeros(number, dtype=np.float32)}
        classes = {"classes": ["wall", "hat"], "ignore_label": None}
        (path / "classes.json").write_text(json.dumps(classes))
    np.savez(path / f"samples_000000-{number - 1:06d}.npz", **arrays)
    facts = {"number": number, "shard_size": number, "format": "npz", "condition": "latents"}
    (path / "samples.json").write_text(json.dumps(facts))
    rows = plain_rows(torch.zeros(number, 3), ["row"] * number)._replace(
        start=noises,
        line=line,
        latent=[own] * 16 + [-1] * 32,
        strength=[0.0, 1.0] * 24,
    )
    write_rows(path, rows)
    table = [{"class": "hat" if i == 0 else None, "length": 2.0} for i in range(3)]
    (path / "latents.csv").write_text(as_csv(table))
    return pairs


@pytest.mark.parametrize("masks", [True, False])
def test_a_latent_that_rises(tmp_path, faces, codes, masks):
    pairs = switched_folder(tmp_path / "s", faces, codes, 4, masks)
    tables = measured(tmp_path / "s", faces, codes)
    (row,) = tables["latents"]
    vectors = codes.vectors(torch.stack([faces[i]["image"] for i in range(40)]))
    off, on = (vectors[[pair[end] for pair in pairs]].mean(0) for end in (0, 1))
    change = (on - off) / vectors.std(0, correction=0)
    assert row["rise"] == pytest.approx(float(change[4]), rel=1e-3)
    assert row["rank"] == 1 + int((change.abs() > change[4]).sum())
    assert (row["null"], row["p"], row["of"]) == (0, pytest.approx(1 / 3), 12)
    assert row["rises"]
    assert row["pixels"] > row["pixels_null"] == 0
    expected = (pytest.approx(0.25), 0, True) if masks else (None, None, None)
    assert (row["area"], row["area_null"], row["area_beyond"]) == expected
    (whole,) = tables["faithfulness"]
    assert (whole["latents"], whole["random"], whole["risen"]) == (1, 2, 1)
    assert whole["median_rank"] == row["rank"]


def test_of_latents_no_attribute_is_learned(tmp_path, faces, codes):
    switched_folder(tmp_path / "s", faces, codes, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tables = measured(tmp_path / "s", faces, codes, learned=FACES(split="train"))
    assert tables.keys() == {"faithfulness", "latents"}


def test_latents_that_cannot_be_judged(tmp_path, faces, codes):
    switched_folder(tmp_path / "s", faces, codes, 4)
    with pytest.raises(UserError, match="representation=codes"):
        measured(tmp_path / "s", faces)
    with pytest.raises(UserError, match=r"Latent 4 was switched .* representation.latents=null"):
        measured(tmp_path / "s", faces, copy_of(codes, [1, 2]))
    (tmp_path / "s" / "latents.csv").unlink()
    with pytest.raises(UserError, match=r"latents\.csv is not there, or was changed"):
        measured(tmp_path / "s", faces, codes)


def copy_of(codes, latents):
    other = copy.copy(codes)
    other.latents = latents
    return other
