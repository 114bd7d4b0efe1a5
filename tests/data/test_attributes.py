"""Attributes of pictures: what a mirror makes of them, and what may not be said."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffdict.data.attributes import (
    Attribute,
    check_attributes,
    check_mirrors,
    check_values,
    mirror_attributes,
)
from diffdict.errors import UserError

NAN = math.nan
FACE = (
    Attribute("hat", "binary", "same"),
    Attribute("yaw", "number", "negated"),
    Attribute("light from the left", "binary", "negated"),
    Attribute("left wink", "binary", "right wink"),
    Attribute("right wink", "binary", "left wink"),
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 0.3, 1, 1, 0], [1, -0.3, 0, 0, 1]),
        ([0, -2, 0, NAN, 1], [0, 2, 1, 1, NAN]),
        ([NAN] * 5, [NAN] * 5),
    ],
)
def test_a_mirror_changes_what_says_so(values, expected):
    values = torch.tensor(values)
    before, expected = values.clone(), torch.tensor(expected)
    torch.testing.assert_close(mirror_attributes(values, FACE), expected, equal_nan=True)
    torch.testing.assert_close(values, before, equal_nan=True)  # it is another's
    rows = mirror_attributes(values.expand(2, 3, -1), FACE)
    torch.testing.assert_close(rows, expected.expand(2, 3, -1), equal_nan=True)


@given(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=5, max_size=5))
def test_twice_mirrored_is_as_it_was(values):
    values = torch.tensor(values)
    twice = mirror_attributes(mirror_attributes(values, FACE), FACE)
    torch.testing.assert_close(twice, values, equal_nan=True)


def test_an_attribute_may_be_called_as_a_rule_is():
    called = [Attribute("negated", "number", "same"), Attribute("same", "number", "negated")]
    check_attributes(called, "x")
    assert mirror_attributes(torch.tensor([1.0, 2.0]), called).tolist() == [1, -2]


def test_what_nobody_said_of_a_mirror_is_refused():
    silent = [*FACE, Attribute("pose", "number"), Attribute("age", "number")]
    check_mirrors(FACE, "faces")
    with pytest.raises(UserError, match=r"^faces does not say .* of pose, age in a mirror") as said:
        check_mirrors(silent, "faces")
    assert "data.flip=false" in str(said.value)
    assert mirror_attributes(torch.ones(7), silent)[5:].isnan().all()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ([("hat", "binary"), ("hat", "binary")], "names that differ, got 'hat', 'hat'"),
        ([("", "binary")], "names that differ, got ''"),
        ([("hat", "yes or no")], "Attribute hat of x is of kind 'yes or no': .*binary or number"),
        ([("wink", "binary", "other wink")], "wink of x becomes 'other wink': it must be same"),
        ([("l", "binary", "r"), ("r", "number", "l")], "l of x becomes 'r': .* of kind binary"),
        ([("l", "binary", "r"), ("r", "binary", "same")], "l of x becomes 'r': .* that becomes l"),
    ],
)
def test_attributes_that_contradict_themselves_are_refused(attributes, message):
    with pytest.raises(UserError, match=message) as refusal:
        check_attributes([Attribute(*attribute) for attribute in attributes], "x")
    assert "\n" not in str(refusal.value)
    check_attributes(FACE, "x")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 0.5, r"hat of x\[3\] is 0.5: a binary one is 0, 1, or NaN"),
        (0, -1, r"hat of x\[3\] is -1: a binary one"),
        (0, math.inf, r"hat of x\[3\] is inf"),
        (1, -math.inf, r"yaw of x\[3\] is -inf: it must be a finite"),
    ],
)
def test_values_that_are_none_are_refused(column, value, message):
    values = torch.tensor([1, -0.3, 0, NAN, 1])
    check_values(values, FACE, "x[3]")
    values[column] = value
    with pytest.raises(UserError, match=message) as refusal:
        check_values(values, FACE, "x[3]")
    assert "\n" not in str(refusal.value)
