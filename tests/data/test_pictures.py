"""Decoding, sizes and labels of picture files, against formulas done by hand and Pillow itself."""

import io
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffdict.data.pictures import (
    decode_picture,
    fingerprint,
    fit_mask,
    fit_picture,
    nearest_index,
    palette,
    read_mask,
    split_range,
)
from diffdict.errors import UserError


def png(pixels: np.ndarray, colours: list[int] | None = None) -> io.BytesIO:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    if colours is not None:
        image.putpalette(colours)
    image.save(file, "PNG")
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("source", "target", "taken"),
    [
        (6, 3, [0, 2, 4]),  # every second, from the first: Pillow takes 1, 3, 5
        (3, 6, [0, 0, 1, 1, 2, 2]),
        (5, 3, [0, 1, 3]),  # floor(0, 1.67, 3.33)
        (4, 7, [0, 0, 1, 1, 2, 2, 3]),  # floor(0, .57, 1.14, 1.71, 2.29, 2.86, 3.43)
        (7, 4, [0, 1, 3, 5]),  # floor(0, 1.75, 3.5, 5.25)
        (1, 4, [0, 0, 0, 0]),
        (5, 1, [0]),
    ],
)
def test_nearest_takes_what_opencv_takes(source, target, taken):
    assert nearest_index(source, target).tolist() == taken
    mask = np.arange(source * source).reshape(source, source)
    resized = fit_mask(mask, target, None, "mask")
    assert torch.equal(resized, torch.from_numpy(mask[np.ix_(taken, taken)]))


@given(st.integers(1, 300), st.integers(1, 300))
def test_nearest_is_the_identity_at_equal_size_and_never_leaves_the_mask(source, target):
    index = nearest_index(source, target)
    assert len(index) == target
    assert index[0] == 0
    assert (np.diff(index) >= 0).all()
    assert index[-1] < source
    exact = np.arange(target) * source // target
    assert (np.abs(index - exact) <= 1).all()
    assert nearest_index(source, source).tolist() == list(range(source))


def test_pictures_are_scaled_to_minus_one_and_one_and_resized_as_pillow_does():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    scaled = torch.from_numpy(pixels / 255 * 2 - 1).permute(2, 0, 1).float()
    torch.testing.assert_close(fit_picture(pixels, None, None, "x"), scaled)
    resized = np.asarray(Image.fromarray(pixels).resize((5, 5), Image.Resampling.BILINEAR))
    expected = torch.from_numpy(resized / 255 * 2 - 1).permute(2, 0, 1).float()
    torch.testing.assert_close(fit_picture(pixels, 5, None, "x"), expected)


def test_crop_takes_the_same_centre_of_picture_and_mask():
    labels = np.arange(4 * 7).reshape(4, 7).astype(np.uint8)
    pixels = np.repeat(labels[..., None], 3, axis=2)
    image, mask = fit_picture(pixels, None, "center", "x"), fit_mask(labels, None, "center", "x")
    assert torch.equal(mask, torch.from_numpy(labels[:, 1:5].astype(np.int64)))
    torch.testing.assert_close((image[0] + 1) / 2 * 255, mask.float())


def test_every_kind_of_pixel_becomes_rgb():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    same = np.repeat(grey[..., None], 3, axis=2)
    alpha = np.dstack([same, np.full_like(grey, 7)])
    sixteen = grey.astype(np.uint16) * 257
    indexed = png(255 - grey, [255 - value // 3 for value in range(768)])
    for source in (png(grey), png(same), png(alpha), png(sixteen), indexed):
        got = decode_picture(source, "x")
        assert got.shape == (16, 16, 3)
        np.testing.assert_array_equal(got, same)


def test_masks_are_read_from_arrays_grey_and_palette_pictures(tmp_path):
    labels = np.random.default_rng(0).integers(0, 5, (6, 6)).astype(np.uint8)
    np.save(tmp_path / "a.npy", labels)
    Image.fromarray(labels).save(tmp_path / "b.png")
    coloured = png(labels, [value for colour in palette(5) for value in colour])
    (tmp_path / "c.png").write_bytes(coloured.read())
    for name in ("a.npy", "b.png", "c.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), labels)


def test_the_fingerprint_follows_names_bytes_and_facts_and_survives_without_a_cache(
    tmp_path, cache
):
    for name in ("b", "a"):
        (tmp_path / name).write_bytes(name.encode())
    first = fingerprint(tmp_path, ["b", "a"], 64)
    assert first == fingerprint(tmp_path, ["a", "b"], 64)
    assert len(list(cache.rglob("*.json"))) == 1
    assert first != fingerprint(tmp_path, ["a", "b"], 32)
    assert first != fingerprint(tmp_path, ["a"], 64)
    (tmp_path / "b").write_bytes(b"changed")
    assert first != fingerprint(tmp_path, ["a", "b"], 64)
    (tmp_path / "b").write_bytes(b"b")
    for kept in cache.rglob("*.json"):
        kept.write_text("torn {")
    assert first == fingerprint(tmp_path, ["a", "b"], 64)


def test_colours_are_distinct_and_the_first_ones_stay():
    colours = palette(34)
    assert colours[:11] == palette(11)
    distances = [
        np.linalg.norm(np.subtract(one, other)) for one, other in itertools.combinations(colours, 2)
    ]
    assert min(distances) > 40


counts = st.one_of(st.none(), st.integers(0, 12))


@given(st.integers(1, 30), counts, counts, counts)
def test_splits_of_one_folder_never_share_a_picture(total, train, val, test):
    wanted = {"train": train, "val": val, "test": test}
    parts = []
    for split in wanted:
        try:
            parts.append(split_range(total, split, wanted, "x", shared=True))
        except UserError:
            continue
    taken = [position for part in parts for position in part]
    assert len(set(taken)) == len(taken)
    assert set(taken) <= set(range(total))
