"""Pictures as guided-diffusion and RCDM's scripts cut them."""

import numpy as np
import pytest
from PIL import Image

from diffdict.data.class_folder import ClassFolder
from diffdict.data.folder import FolderDataset
from diffdict.data.pictures import fit_guided, squashed
from diffdict.errors import UserError


def smooth(height: int, width: int) -> np.ndarray:
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((3 * x + 5 * y + 70 * c) % 256).astype(np.uint8)


def rough(height: int, width: int) -> np.ndarray:
    drawn = np.random.default_rng(10901).integers(0, 256, size=(height, width, 3))
    return drawn.astype(np.uint8)


def test_every_golden_output(golden):
    case = golden("rcdm_crops")
    for output in case.facts["outputs"]:
        kind, size, how = output["name"].split(".")
        height, width = map(int, size.split("x"))
        pixels = {"smooth": smooth, "rough": rough}[kind](height, width)
        fit = {"centre": fit_guided, "squash": squashed}[how[:6]]
        case.check(output["name"], fit(pixels, int(how[6:])))


@pytest.mark.parametrize(
    ("fit", "size", "side", "total", "first", "other"),
    [
        (fit_guided, (375, 500), 128, 6313130, [194, 30, 78], [217, 30, 101]),
        (fit_guided, (375, 500), 224, 19185592, [189, 16, 73], [201, 15, 85]),
        (fit_guided, (600, 450), 128, 6315060, [123, 193, 53], [170, 67, 137]),
        (fit_guided, (600, 450), 224, 19342844, [120, 190, 54], [85, 155, 225]),
        (fit_guided, (200, 180), 224, 19209813, [48, 118, 188], [34, 104, 174]),
        (squashed, (375, 500), 224, 19194841, [4, 74, 144], [184, 145, 68]),
    ],
)
def test_published_sums(fit, size, side, total, first, other):
    pixels = fit(smooth(*size), side)
    assert pixels.dtype == np.uint8
    assert int(pixels.astype(np.int64).sum()) == total
    assert pixels[0, 0].tolist() == first
    assert pixels[64, 100].tolist() == other


def test_data_sets_cut_so(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "one").mkdir(parents=True)
        Image.fromarray(smooth(75, 100)).save(tmp_path / split / "one" / "a.png")
    wanted = fit_guided(smooth(75, 100), 32)
    for kind in (FolderDataset, ClassFolder):
        made = kind("mine", str(tmp_path), "test", image_size=32, resize="guided")
        image = (made[0]["image"].permute(1, 2, 0).numpy() + 1) * 127.5
        assert np.array_equal(image.round().astype(np.uint8), wanted)
        plain = kind("mine", str(tmp_path), "test", image_size=32, crop="center")
        assert made.fingerprint != plain.fingerprint
        with pytest.raises(UserError, match="bilinear or guided"):
            kind("mine", str(tmp_path), "test", resize="lanczos")


@pytest.mark.parametrize("size", [(7, 40), (8, 400)])
def test_what_shows_nothing_is_named(tmp_path, size):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        Image.fromarray(smooth(*size)).save(tmp_path / split / "a.png")
    made = FolderDataset("mine", str(tmp_path), "test", image_size=32, resize="guided")
    with pytest.raises(UserError, match=r"a\.png is \d+×\d+: pictures are at least 8"):
        made[0]
