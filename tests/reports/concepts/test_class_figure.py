"""The figure of concepts: which pictures, which latents, and every cell where it belongs."""

from unittest.mock import Mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from diffdict.errors import UserError
from diffdict.metrics.concepts.assignment import choice_figures
from diffdict.reports.concepts import class_figure as concept_grid
from diffdict.reports.concepts.class_figure import (
    choose_for,
    choose_labels,
    concept_figure,
    concept_figures,
)
from diffdict.reports.drawing.colours import as_bytes
from diffdict.reports.drawing.figure import APART, GAP, HEAD, LEFT, draw_figure
from diffdict.reports.drawing.overlay import enlarged, outlined, overlay, tinted
from diffdict.reports.grid import Grid
from diffdict.sae.topk import BatchTopK, TopK
from tests.reports.world import PALETTE, SIDE, Tested, World, build, measure_world

TIMES = 5  # a cell is 120 pixels wide


@pytest.fixture(scope="module", params=[TopK, BatchTopK])
def sae(request):
    return build(request.param)


@pytest.fixture(scope="module")
def found(sae):
    return measure_world(sae, World())


def test_the_world_is_understood(found):
    assert found.best.choice.latents[:3].tolist() == [0, 1, 2]
    assert (found.best.test.iou[:3] > 0.5).all()
    assert found.test.absent == ["sun"]


def test_latents_are_the_best_and_the_runner_up(found):
    for label in (0, 1, 2):
        first, second = choose_for(found, label)
        assert first.latent == label
        assert first.test == pytest.approx(float(found.best.test.iou[label]))
        assert second.latent == int(found.second.latents[label])
        assert second.test == pytest.approx(
            float(choice_figures(found.second, found.test).iou[label])
        )
        at = found.best.choice.thresholds[label]
        assert first.threshold == float(found.thresholds[label, at])


@torch.no_grad()
def counted(sae, found, data, label, index):
    """How far above its floor a class's latent is, done naively: upsampled, encoded, compared."""
    chosen = choose_for(found, label)[0]
    maps = data.maps("test", index).images()[0]
    pre = sae.pre(maps[0].flatten(1).T).T.view(1, -1, *maps.shape[2:])
    large = F.interpolate(pre, (SIDE, SIDE), mode="bilinear")[0].flatten(1).T
    codes = sae.activate(large)[:, chosen.latent].view(SIDE, SIDE)
    floor = found.thresholds[chosen.latent, 0]
    return torch.where(codes > chosen.threshold, codes - floor, 0)


def test_cells_show_what_is_counted(sae, found, monkeypatch):
    data, drawn = World(), {}

    def draw(title, columns, rows, scale):
        drawn.update({row.name: row for row in rows})
        return draw_figure(title, columns, rows, scale)

    monkeypatch.setattr(concept_grid, "draw_figure", draw)
    sheet = concept_figure(sae, found, data, ["ship", "sky"], pictures=5)
    assert list(drawn) == ["ship", "sky"]
    for label, row in ((2, drawn["ship"]), (0, drawn["sky"])):
        assert f"1st latent {label}" in row.lines
        seen = [counted(sae, found, data, label, index) for index in range(len(row.groups))]
        most = max(float(each.max()) for each in seen)
        assert most > 0
        for index, (cells, height) in enumerate(zip(row.groups, seen, strict=True)):
            pixels = enlarged(as_bytes(data.picture("test", index)[None])[0], TIMES)
            inside = enlarged((data.mask("test", index) == label).numpy(), TIMES)
            truth = outlined(tinted(pixels, inside, PALETTE[label]), inside)
            heat = overlay(pixels, enlarged((height / most).numpy(), TIMES))
            expected = outlined(heat, inside)
            assert (cells[0] == pixels).all()
            assert (cells[1] == truth).all()
            np.testing.assert_allclose(cells[2].astype(int), expected, atol=1)
    shown = np.asarray(sheet)[HEAD + 5 :, LEFT:][: TIMES * SIDE, : TIMES * SIDE]
    assert (shown == drawn["ship"].groups[0][0]).all()
    assert sheet.width == LEFT + 5 * (4 * (128 + GAP) - GAP + APART)


def test_all_classes_that_a_test_picture_shows(found):
    assert choose_labels(found, None) == [0, 1, 2]
    assert choose_labels(found, ["ship", "sky"]) == [2, 0]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["moon"], "report.grid.classes has 'moon', classes are sky, sea, ship, sun"),
        (["sun"], "No test picture shows sun"),
    ],
)
def test_classes_that_cannot_be_shown(found, names, said):
    with pytest.raises(UserError, match=said):
        choose_labels(found, names)


def test_several_dictionaries_stacked_streams_and_pictures_that_are_elsewhere():
    data = World(at_hand=False, streams=2)
    drawn = concept_figures(Tested(data, scale2=build(), scale4=build(k=3)), data, None, 2)
    assert list(drawn) == ["scale2", "scale4"]
    alone = concept_figures(Tested(data, sae=build()), data, None, 2)
    assert list(alone) == ["concepts"]
    np.testing.assert_array_equal(np.asarray(alone["concepts"]), np.asarray(drawn["scale2"]))
    mask = np.asarray(alone["concepts"])[HEAD + 5 :, LEFT:][: TIMES * SIDE : TIMES]
    assert (mask[-2, : TIMES * SIDE] == PALETTE[1]).all(), (
        "the mask in its colours stands for the picture"
    )


def test_pictures_that_no_latent_can_be_matched_with_are_refused(sae):
    trainer = Mock(spec=pl.Trainer, datamodule=Mock(unlabelled="faces has no labels"))
    with pytest.raises(UserError, match=r"faces has no labels; report=dashboard does without"):
        Grid("out").setup(trainer, Tested(World(), sae=sae), "test")
