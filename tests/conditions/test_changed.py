"""Pictures and what is changed of them: the changes themselves, the rows, the distances."""

from functools import partial

import pytest
import torch
from PIL import Image, ImageFilter

from diffdict.backbones.pixels import Pixels
from diffdict.conditions.changed import CHANGES, ChangedVectors, blurred, grey, moved
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.reports.drawing.colours import as_bytes
from diffdict.representations.pooled import Pooled

FACES = partial(ToyFaces, image_size=32, train_pictures=2, val_pictures=2, test_pictures=3)


@pytest.fixture(scope="module")
def face():
    return FACES(split="test")[1]["image"][None]


def as_image(images):
    return Image.fromarray(as_bytes(images)[0])


def test_changes_are_pillows(face):
    ours = as_bytes(grey(face))[0].astype(int)
    theirs = torch.tensor(list(as_image(face).convert("L").getdata())).view(32, 32)
    assert (torch.from_numpy(ours[..., 0]) - theirs).abs().max() <= 1
    assert (ours[..., 0] == ours[..., 2]).all()
    soft = as_image(face).filter(ImageFilter.GaussianBlur(1))
    inner = (slice(4, -4),) * 2
    own = torch.from_numpy(as_bytes(blurred(face))[0].astype(int))[inner]
    wanted = torch.tensor(list(soft.getdata())).view(32, 32, 3)[inner]
    assert (own - wanted).abs().float().mean() < 3


def test_moves_go_where_they_say(face):
    torch.testing.assert_close(moved(face), face, atol=1e-5, rtol=0)
    shifted = CHANGES["shifted"](face)
    torch.testing.assert_close(shifted[..., 4:], face[..., :-4], atol=1e-4, rtol=0)
    quarter = moved(face, turn=torch.pi / 2)
    turns = [face.rot90(k, (2, 3)) for k in (1, 3)]
    assert min(float((quarter - turn).abs().max()) for turn in turns) < 1e-3
    dot = -torch.ones(1, 3, 33, 33)
    dot[..., 16, 16] = 1
    assert float(moved(dot, zoom=1.5).sum()) > float(dot.sum())
    assert CHANGES["turned"](face).shape == face.shape


def test_rows_share_noise_and_distances_say_what_is_seen(face):
    condition = ChangedVectors(FACES, number=3, changes=["flipped", "grey"], each=2, side=32)
    maker = Pooled(Pixels(32), None, "pixels", grid=1)
    rows = condition.rows(maker, maker.dim, condition.number, torch.device("cpu"))
    assert condition.number == len(rows.vectors) == 18
    assert rows.captions[:6] == ["same", "same", "flipped", "flipped", "grey", "grey"]
    assert rows.start == rows.steps == [0, 1] * 9
    assert rows.source == [line for line in range(9) for _ in (0, 1)]
    torch.testing.assert_close(rows.pictures[4], face.flip(-1)[0])
    same, flipped, greyed = condition.tables()["changes"]
    assert same["distance"] == 0
    assert flipped["distance"] < 1e-9  # mean colours do not see a mirror
    assert greyed["distance"] > 1e-4
    assert greyed["share"] > flipped["share"]
    assert greyed["cosine"] < flipped["cosine"] <= 1 + 1e-9
    alone = ChangedVectors(FACES, number=1, each=1, side=32)
    alone.rows(maker, maker.dim, alone.number, torch.device("cpu"))
    assert {row["share"] for row in alone.tables()["changes"]} == {None}
    assert len(alone.tables()["changes"]) == 7


def test_what_is_no_change():
    with pytest.raises(UserError, match=r"some of grey, flipped, .* got 'sepia'"):
        ChangedVectors(FACES, changes=["sepia"])
    with pytest.raises(UserError, match=r"condition\.each=1"):
        ChangedVectors(FACES, each=0)
