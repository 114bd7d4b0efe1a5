"""Common dimensions of neighbours, against the published script."""

from functools import partial

import pytest
import torch

from diffdict.backbones.pixels import Pixels
from diffdict.conditions.interpolation import InterpolatedVectors
from diffdict.conditions.manipulation import ManipulatedVectors, common, presence, replaced
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.representations.pooled import Pooled
from tests.inputs import normal

FACES = partial(ToyFaces, image_size=16, train_pictures=8, val_pictures=2, test_pictures=3)

E = (normal(10301, (60, 48)) + 0.5).clamp(min=0)
Q = (normal(10302, (1, 48)) + 0.5).clamp(min=0)
TARGET = (normal(10303, (1, 48)) + 0.5).clamp(min=0)


@pytest.mark.parametrize("n_common", [14, 10])
def test_golden(golden, n_common):
    case = golden("rcdm_manipulation")
    found = common(E, Q, 20, n_common)
    assert len(found) == 2
    counts = presence(E, found.neighbours)
    assert torch.equal((counts > n_common).nonzero()[:, 0], found.dimensions)
    case.check("neighbours", found.neighbours)
    case.check(f"n{n_common}.common", found.dimensions)
    case.check(f"n{n_common}.zeroed", replaced(Q[0], found.dimensions))
    case.check(f"n{n_common}.replaced", replaced(Q[0], found.dimensions, TARGET[0]))


def test_a_floor_leaves_what_is_hardly_there_out():
    every = common(E + 1e-3, Q)
    assert len(every.dimensions) == 48
    raised = common(E + 1e-3, Q, floor=0.01)
    assert torch.equal(raised.neighbours, every.neighbours)
    assert 0 < len(raised.dimensions) < 48
    assert len(common(E, Q, floor=0.99).dimensions) == 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"k": 0}, "1 or more, got 0"),
        ({"k": 61}, "among 60 pictures"),
        ({"n_common": 20}, r"0\.\.19"),
        ({"n_common": -1}, "got -1"),
        ({"floor": 1.0}, "floor is a share"),
    ],
)
def test_what_cannot_be_common(asked, said):
    with pytest.raises(UserError, match=said):
        common(E, Q, **asked)


def rows_of(condition):
    maker = Pooled(Pixels(image_size=16), None, ["pixels"], grid=2)
    return condition.rows(maker, maker.dim, condition.number, torch.device("cpu"))


@pytest.mark.parametrize(
    ("share", "start", "steps"),
    [
        ("none", [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
        ("start", [0, 1, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5]),
        ("all", [0, 1, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1]),
    ],
)
def test_kinds_share_as_much_noise_as_is_asked_for(share, start, steps):
    asked = {"picture": 0, "target": 1, "k": 8, "n_common": 7, "floor": 0.3, "each": 2}
    rows = rows_of(ManipulatedVectors(FACES, share=share, **asked))
    assert (list(rows.start), list(rows.steps)) == (start, steps)
    assert list(rows.line) == [0, 0, 1, 1, 2, 2]
    assert list(rows.target) == [-1, -1, -1, -1, 1, 1]
    assert rows.vectors[::2].equal(rows.vectors[1::2])


def test_a_picture_among_its_neighbours_is_said_and_kept():
    asked = {"picture": 0, "target": 1, "k": 3, "n_common": 2, "floor": 0.3}
    condition = ManipulatedVectors(FACES, neighbours_split="test", **asked)
    with pytest.warns(UserWarning, match=r"condition\.picture .* is among the neighbours itself"):
        rows_of(condition)
    assert len(condition.tables()["neighbours"]) == 3


@pytest.mark.parametrize("share", ["start", "all"])
def test_a_way_begins_from_one_noise(share):
    rows = rows_of(InterpolatedVectors(FACES, first=0, second=1, steps=3, each=2, share=share))
    heads = [0, 0, 0, 3, 3, 3]
    assert list(rows.start) == heads
    assert list(rows.steps) == (heads if share == "all" else list(range(6)))
