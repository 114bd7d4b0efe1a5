"""The round trip's table and sheet: means over all pictures, colours that follow the difference."""

import json
import math

import numpy as np
import pytest

from diffdict.data.toy_faces import ToyFaces
from diffdict.reports.drawing.colours import as_bytes
from diffdict.reports.drawing.figure import APART, GAP, HEAD, LEFT, SIDE
from diffdict.reports.drawing.overlay import ladder
from diffdict.reports.samples.round_trip import (
    gain_of,
    picture_rows,
    round_trip_sheet,
    spoken_facts,
    summary,
)
from diffdict.results.inputs.stored_noise import RECORD, StoredNoise, shard_name
from tests.results.inputs.test_stored_noise import FACTS

OFF = 8  # bytes that the second picture back is too bright by


@pytest.fixture
def noise(tmp_path):
    """Two faces, one back unchanged, one off by eight bytes where it could be."""
    faces = ToyFaces("test", image_size=64, test_pictures=2)
    images = np.concatenate([as_bytes(faces[index]["image"][None]) for index in range(2)])
    images[1] = np.clip(images[1].astype(int) + OFF, 0, 255)
    facts = {**FACTS, "number": 2, "image_size": 64}
    (tmp_path / RECORD).write_text(json.dumps(facts))
    floats = dict(
        zip(("rounding", "other"), np.float32([[0.002, 0.002], [0.5, np.nan]]), strict=True)
    )
    np.savez(
        tmp_path / shard_name(range(2)),
        noise=np.ones((2, 3, 64, 64), np.float32),
        images=images,
        index=np.arange(2),
        name=np.array(["a/one", "a/two"]),
        deviation=np.float32([0.9, 1.1]),
        rmse=np.float32([0, 0.2]),
        largest=np.float32([0, 0.7]),
        **floats,
    )
    return StoredNoise(tmp_path), faces


def test_the_table_is_the_mean_over_pictures_beside_its_floors(noise):
    rows = picture_rows(noise[0], back=True)
    assert [row["name"] for row in rows] == ["a/one", "a/two"]
    assert [row["psnr"] for row in rows] == [math.inf, pytest.approx(20)]
    back, rounding, other = summary(rows)
    assert (back["RMSE"], back["worst picture"], back["largest"]) == pytest.approx((0.1, 0.2, 0.7))
    assert rounding["RMSE"] == pytest.approx(0.002)
    assert (other["RMSE"], other["largest"]) == (pytest.approx(0.5), None)
    assert "2 pictures, 18 steps each, in 1.5 s" in spoken_facts(rows, 18, 2, 1.5)
    assert "deviation is 1.000" in spoken_facts(rows, 18, 2, 1.5)
    assert spoken_facts(rows, 18, 0, 0.1).startswith("0 of 2 pictures inverted now")


def test_without_the_way_back_there_is_no_error(noise):
    rows = picture_rows(noise[0], back=False)
    assert set(rows[0]) == {"index", "name", "deviation"}
    assert summary(rows) == []


@pytest.mark.parametrize(
    ("high", "gain"), [(0.0, 1), (1.0, 1), (0.6, 1), (0.4, 2), (0.1, 8), (1e-9, 4096)]
)
def test_the_gain_fills_the_scale(high, gain):
    assert gain_of(np.full((1, 4, 4), high, np.float32)) == gain


def test_the_sheet_shows_where_a_picture_is_off(noise):
    held, faces = noise
    sheet = np.asarray(round_trip_sheet(held, faces, picture_rows(held, back=True)))

    def cell(row, column):
        """Top left corner, whence every pixel is two wide."""
        tall = (sheet.shape[0] - HEAD - 58) // 2
        x, y = LEFT + column * (SIDE + GAP), HEAD + row * tall + 5
        return sheet[y : y + SIDE : 2, x : x + SIDE : 2]

    assert sheet.shape[1] == LEFT + 4 * (SIDE + GAP) - GAP + APART
    with np.load(held.path / shard_name(range(2))) as arrays:
        images = arrays["images"]
    came = np.concatenate([as_bytes(faces[index]["image"][None]) for index in range(2)])
    for row in range(2):
        assert np.array_equal(cell(row, 0), came[row])
        assert np.array_equal(cell(row, 2), images[row])
    assert (cell(0, 1) == 170).all()  # a noise of 1, three of which are white
    assert (cell(0, 3) == ladder()[0]).all()
    level = 255 * 16 * OFF / 255
    shown = ladder()[round(level)].astype(int)
    free = (came[1].astype(int) + OFF <= 255).all(-1)
    assert np.abs(cell(1, 3)[free].astype(int) - shown).max() <= 4
