"""Laws of what lies between two pictures."""

import pytest
import torch

from diffdict.diffusion.chains.interpolation import exchange_parts, move, slerp
from tests.inputs import normal, unit

A, B = normal(1, (3, 2, 4, 4)), normal(2, (3, 2, 4, 4))


def test_slerp_begins_and_ends_at_its_pictures():
    torch.testing.assert_close(slerp(A, B, 0.0), A)
    torch.testing.assert_close(slerp(A, B, 1.0), B)
    torch.testing.assert_close(slerp(A, B, 0.3), slerp(B, A, 0.7))


def test_slerp_stays_on_the_sphere():
    a, b = (torch.nn.functional.normalize(x.flatten(1)).view_as(x) for x in (A, B))
    torch.testing.assert_close(slerp(a, b, 0.4).flatten(1).norm(dim=1), torch.ones(3))


def test_slerp_of_pictures_on_one_line():
    torch.testing.assert_close(slerp(A, A, 0.4), A)
    torch.testing.assert_close(slerp(A, 3 * A, 0.5), 2 * A)


def test_pictures_are_taken_one_by_one():
    torch.testing.assert_close(slerp(A, B, 0.4)[1:2], slerp(A[1:2], B[1:2], 0.4))


def test_an_exchange_changes_one_part_alone():
    codes, others = A.flatten(1), B.flatten(1)
    mixed = exchange_parts(codes, others, slice(5, 9))
    assert torch.equal(mixed[:, 5:9], others[:, 5:9])
    assert torch.equal(mixed[:, :5], codes[:, :5])
    assert torch.equal(mixed[:, 9:], codes[:, 9:])
    assert torch.equal(exchange_parts(codes, others, slice(5, 9), 0.0), codes)


def test_the_published_direction(golden):
    direction, mean, std = normal(9162, (48,)), 0.1 * normal(9163, (48,)), 1 + unit(9164, (48,))
    moved = move(normal(9161, (2, 48)), direction, mean, std, 0.3, length=512**0.5)
    golden("diti_figures").check("direction.512", moved)


def test_a_direction_is_as_long_as_normalised_codes_are():
    codes, direction, mean, std = normal(1, (2, 9)), normal(2, (9,)), normal(3, (9,)), unit(4, (9,))
    way = (move(codes, direction, mean, std, 1.0) - codes) / std
    torch.testing.assert_close(way.norm(dim=1), torch.full((2,), 3.0))
    torch.testing.assert_close(move(codes, 5 * direction, mean, std, 0.4), codes + 0.4 * way * std)
    assert move(codes, direction, mean, std, 0.0) == pytest.approx(codes)
