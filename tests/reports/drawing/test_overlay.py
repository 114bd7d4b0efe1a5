"""Overlays: pale pictures, heat in the page's own colours, outlines."""

import json
import re
from pathlib import Path

import numpy as np

from diffdict.reports import concepts
from diffdict.reports.drawing.overlay import STOPS, colour_bar, ladder, outlined, overlay


def test_pictures_pale_where_a_latent_is_active_and_only_there_it_is_hot():
    picture = np.full((2, 3, 3), (200, 100, 0), dtype=np.uint8)
    strength = np.array([[0, 0.01, 0.5], [1, 2, 0]])
    drawn = overlay(picture, strength)
    assert (drawn[strength == 0] == (130, 100, 70)).all()
    assert (drawn[1, 0] == drawn[1, 1]).all(), "no more than the strongest"
    hot = 0.9 * ladder()[255] + 0.1 * np.array([130, 100, 70])
    np.testing.assert_allclose(drawn[1, 0], hot, atol=1)
    assert np.abs(drawn[0, 1].astype(int) - (130, 100, 70)).sum() > 50, "the weakest is seen"


def test_the_page_has_the_same_colours():
    script = (Path(concepts.__file__).parent / "page/heat.js").read_text()
    stops = json.loads(
        re.search(r"const STOPS = (\[.*?\n\]);", script, re.S)[1].replace(",\n]", "]")
    )
    assert stops == [list(stop) for stop in STOPS]
    bar = np.asarray(colour_bar(100, 4))
    assert (bar[0, 0] == STOPS[0]).all()
    assert (bar[3, -1] == STOPS[-1]).all()


def test_an_outline_lies_within_its_area_and_not_along_the_edge():
    inside = np.zeros((6, 6), dtype=bool)
    inside[1:5, 2:] = True
    drawn = outlined(np.zeros((6, 6, 3), dtype=np.uint8), inside)
    rim = drawn[..., 0] == 255
    assert not (rim & ~inside).any()
    assert rim[1, 2:].all()
    assert rim[1:5, 2].all()
    assert not rim[2:4, 3:].any()
