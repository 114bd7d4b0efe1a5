"""One picture is prepared and seen as those of a data set are."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffdict.backbones.pixels import Pixels
from diffdict.errors import UserError
from diffdict.features.one_picture import open_picture, see

SIDE = 8


@pytest.fixture
def upright():
    """A wide picture, red above and blue below, with a green mark at its left edge."""
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[:10, :, 0], pixels[10:, :, 2] = 255, 255
    pixels[5:15, 5:10] = (0, 255, 0)
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_seen_upright_however_the_camera_was_held(tmp_path, upright, orientation):
    undo = {
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(undo.get(orientation, lambda x: x)(upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(upright).save(tmp_path / "plain.png")
    seen, expected = (open_picture(tmp_path / name, SIDE) for name in ("turned.png", "plain.png"))
    assert torch.equal(seen, expected)
    assert seen.shape == (3, SIDE, SIDE)


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (90, 3), (8, 8)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK"])
def test_any_size_shape_and_mode(tmp_path, size, mode):
    Image.new(mode, size).save(path := tmp_path / "a.tiff")
    assert open_picture(path, SIDE).shape == (3, SIDE, SIDE)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.png", "No picture at .*none.png"),
        (".", "is a folder: name one picture in it, or dataset.path="),
        ("text.png", "text.png is no whole picture"),
        ("cut.png", "cut.png is no whole picture"),
    ],
)
def test_what_is_no_picture(tmp_path, upright, name, said):
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(upright).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    with pytest.raises(UserError, match=said):
        open_picture(tmp_path / name, SIDE)


def test_the_backbone_sees_it_once_and_is_the_one_that_was_learned_with():
    net, image = Pixels(image_size=SIDE), torch.rand(3, SIDE, SIDE) * 2 - 1
    seen = see(image, net, None, "all", sha256=net.sha256)
    (expected,) = net.features(image[None]).values()
    torch.testing.assert_close(seen.images()[0], expected)
    assert seen.size == (SIDE, SIDE)
    with pytest.raises(UserError, match="put the right ones in their place"):
        see(image, net, None, "all", sha256="0" * 64)
