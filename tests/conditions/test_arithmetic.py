"""Vectors of pictures added and taken off."""

from functools import partial

import pytest
import torch

from diffdict.backbones.pixels import Pixels
from diffdict.conditions.arithmetic import ArithmeticVectors
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.representations.pooled import Pooled

FACES = partial(ToyFaces, image_size=16, train_pictures=2, val_pictures=2, test_pictures=4)


@pytest.mark.parametrize("amount", [1.0, -0.5])
def test_one_is_taken_off_and_one_added(amount):
    maker = Pooled(Pixels(16), None, "pixels", grid=2)
    asked = {"picture": 0, "less": 1, "more": 3, "amount": amount, "each": 2, "side": 16}
    condition = ArithmeticVectors(FACES, **asked)
    rows = condition.rows(maker, maker.dim, condition.number, torch.device("cpu"))
    faces = FACES(split="test")
    a, b, c = maker.vectors(torch.stack([faces[i]["image"] for i in (0, 1, 3)]))
    torch.testing.assert_close(rows.vectors[:2], a.expand(2, -1))
    torch.testing.assert_close(rows.vectors[2:], (a - amount * b + amount * c).expand(2, -1))
    assert list(rows.start) == list(rows.steps) == [0, 1, 0, 1]
    assert (list(rows.line), list(rows.target)) == ([0, 0, 1, 1], [-1, -1, 2, 2])
    assert rows.pictures.shape == (3, 3, 16, 16)
    facts = condition.facts(maker)
    assert (facts["condition"], facts["amount"]) == ("arithmetic", amount)
    assert len({facts[key] for key in ("picture", "less", "more")}) == 3


def test_what_cannot_be_reckoned():
    with pytest.raises(UserError, match=r"condition\.more names a picture and is null"):
        ArithmeticVectors(FACES, picture=0, less=1)
    with pytest.raises(UserError, match="are one picture, and nothing would change"):
        ArithmeticVectors(FACES, picture=0, less=1, more=1)
    for amount in (0, float("nan")):
        with pytest.raises(UserError, match=r"condition\.amount=1"):
            ArithmeticVectors(FACES, picture=0, less=1, more=2, amount=amount)
