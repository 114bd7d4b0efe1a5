"""Colours for classes that brought none."""

from diffdict.reports.drawing.colours import rainbow


def test_rainbow_colours_are_distinct():
    assert len(set(rainbow(40))) == 40
    assert rainbow(0) == []
