"""Paths between two vectors, against the published script and by their laws."""

import pytest
import torch

from diffdict.conditions.interpolation import between
from diffdict.errors import UserError
from tests.inputs import normal


def test_golden(golden):
    case = golden("rcdm_interpolation")
    a, b = normal(10101, (1, 40)), normal(10102, (1, 40))
    case.check("interpolation", between(a, b, 7, 0.5, 0.7, "linear").double())


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_ends_are_the_two(path):
    a, b = normal(1, (40,)), 3 * normal(2, (40,))
    points = between(a, b, 5, path=path)
    torch.testing.assert_close(points[0], a)
    torch.testing.assert_close(points[-1], b)
    torch.testing.assert_close(between(b, a, 5, path=path), points.flip(0))


def test_an_arc_keeps_the_length():
    a, b = (x / x.norm() for x in (normal(1, (9,)), normal(2, (9,))))
    points = between(a, b, 6, path="spherical")
    torch.testing.assert_close(points.norm(dim=1), torch.ones(6))
    turns = torch.cosine_similarity(points[:-1], points[1:]).acos()
    torch.testing.assert_close(turns, turns[:1].expand(5), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 1}, "2 or more, got 1"),
        ({"path": "straight"}, "path is linear or spherical"),
        ({"second": torch.ones(4)}, "same vector"),
        ({"second": torch.ones(5)}, "one width, got 4 and 5"),
        ({"second": -torch.ones(4), "path": "spherical"}, "opposite"),
        ({"second": torch.zeros(4), "path": "spherical"}, "zero vector"),
    ],
)
def test_where_there_is_no_way(changes, said):
    asked = {"first": torch.ones(4), "second": torch.arange(4.0), "steps": 3} | changes
    with pytest.raises(UserError, match=said):
        between(**asked)
