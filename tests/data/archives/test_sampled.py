"""Samples are opened as task=samples, other programs and people leave them; what is not all there
is refused."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from diffdict.data.archives.sampled import open_samples, shard_files
from diffdict.data.base import Pictures
from diffdict.data.compared import ComparedPictures
from diffdict.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)


def write_shards(folder, format, number=7, size=3):
    """As task=samples leaves them, with its sheet."""
    folder.mkdir()
    record = {"number": number, "shard_size": size, "format": format}
    (folder / "samples.json").write_text(json.dumps(record))
    for start in range(0, number, size):
        shard = range(start, min(start + size, number))
        if format == "npz":
            np.savez(folder / shard_files(shard, "npz")[0], arr_0=PIXELS[shard.start : shard.stop])
        else:
            for index, name in zip(shard, shard_files(shard, "png"), strict=True):
                Image.fromarray(PIXELS[index]).save(folder / name)
    Image.new("RGB", (40, 20)).save(folder / "sheet.png")
    return folder


def write_pictures(folder):
    folder.mkdir()
    for index, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def as_bytes(pictures):
    images = [pictures[index]["image"] for index in range(len(pictures))]
    return np.stack([((x + 1) * 127.5).round().numpy().astype(np.uint8) for x in images])


@pytest.mark.parametrize("form", ["npz", "png", "folder", "file"])
def test_every_form_holds_the_same_pictures(tmp_path, form):
    path = tmp_path / ("samples.npz" if form == "file" else "samples")
    if form == "file":
        np.savez(path, arr_0=PIXELS)
    elif form == "folder":
        write_pictures(path)
    else:
        write_shards(path, form)
    pictures = open_samples(path)
    assert (len(pictures), pictures.image_size) == (7, 8)
    assert np.array_equal(as_bytes(pictures), PIXELS.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("format", ["npz", "png"])
def test_unfinished_shards_are_refused(tmp_path, format):
    folder = write_shards(tmp_path / "samples", format)
    (folder / shard_files(range(3, 6), format)[0]).unlink()
    with pytest.raises(UserError, match=r"holds 4 of its 7 samples .* what is finished is kept"):
        open_samples(folder)


def test_what_holds_no_samples_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"samples=.*gone is not there: name a folder"):
        open_samples(tmp_path / "gone")
    with pytest.raises(UserError, match=r"holds neither pictures .* nor .npz files"):
        open_samples(tmp_path)
    (tmp_path / "samples.json").write_text('{"number": 3}')
    with pytest.raises(UserError, match=r"samples\.json was edited or damaged"):
        open_samples(tmp_path)


def test_a_folder_of_mixed_sizes_is_refused(tmp_path):
    folder = write_pictures(tmp_path / "mixed")
    Image.new("RGB", (9, 8)).save(folder / "6.png")
    pictures = open_samples(folder)
    with pytest.raises(UserError, match=r"6\.png is 9×8, .* 8×8: .* a folder of one size"):
        pictures[6]


class Grey(Pictures):
    """Three grey pictures."""

    name, fingerprint = "grey", "grey"

    def __init__(self, split, size=8):
        self.split, self.image_size = split, size

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"image": torch.zeros(3, self.image_size, self.image_size), "index": index}


def compared(path, size=8, **options):
    made = partial(Grey, size=size)
    return ComparedPictures(made, samples=None if path is None else str(path), **options)


def test_sets_that_cannot_be_compared_are_refused(tmp_path):
    folder = write_pictures(tmp_path / "samples")
    with pytest.raises(UserError, match=r"Samples are compared with pictures: samples=FOLDER"):
        compared(None)
    with pytest.raises(UserError, match=r"are 8×8, .* 16×16: dataset\.image_size=8"):
        compared(folder, size=16).facts  # noqa: B018
    facts = compared(folder, size=16, statistics="stats.npz").facts  # no real picture is opened
    assert (facts["real"], facts["sampled"]["pictures"]) == (None, 7)
