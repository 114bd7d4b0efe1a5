"""One picture's concepts: the strongest latents, where they are active, what they are known as."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from diffdict.metrics.concepts.activations import find_floors
from diffdict.reports.concepts.picture_concepts import SHOWN, draw_concepts
from diffdict.reports.drawing.contact_sheet import GAP
from diffdict.reports.drawing.overlay import overlay
from diffdict.sae.topk import BatchTopK, TopK
from tests.reports.world import SIDE, World, build

TABLES = {"latents": [{"latent": 2, "class": "ship", "iou": 0.7, "density": 0.1}]}


def looked(folder, tables=TABLES, streams=1, **saes):
    data = World(streams=streams)
    maps = data.maps("test", 3)
    return draw_concepts(saes, data.picture("test", 3), maps.images(), folder, tables)


@pytest.mark.parametrize("variant", [TopK, BatchTopK])
@torch.no_grad()
def test_the_strongest_latents_and_where_they_are_active(tmp_path, variant):
    sae = build(variant)
    rows = looked(tmp_path, sae=sae)
    maps = World().maps("test", 3).images()[0]
    peaks = sae.encode(maps[0].flatten(1).T).amax(0)
    expected = peaks.argsort(descending=True)[: min(SHOWN, int((peaks > 0).sum()))].tolist()
    assert [row["latent"] for row in rows] == expected
    pre = sae.pre(maps[0].flatten(1).T).T.view(1, -1, *maps.shape[2:])
    large = F.interpolate(pre, (SIDE, SIDE), mode="bilinear")[0].flatten(1).T
    codes = sae.activate(large)
    for row in rows:
        assert row["activation"] == pytest.approx(float(peaks[row["latent"]]))
        share = float((codes[:, row["latent"]] > 0).double().mean())
        assert row["share"] == pytest.approx(share)
    known = {row["latent"]: (row["class"], row["iou"]) for row in rows}
    assert known.pop(2) == ("ship", 0.7)
    assert set(known.values()) == {(None, None)}
    sheet = np.asarray(Image.open(tmp_path / "concepts.png"))
    floors = find_floors(sae.activate, sae.latents, ranked=sae.ranked)
    first = codes[:, rows[0]["latent"]].view(SIDE, SIDE) - float(floors[0])
    pixels = np.full((SIDE, SIDE, 3), round((3 / 5 + 0.5) * 127.5), dtype=np.uint8)
    tile = overlay(pixels, (first.clamp(min=0) / first.max()).numpy())
    x = GAP + 8 * SIDE + GAP
    drawn = sheet[GAP : GAP + 8 * SIDE : 8, x : x + 8 * SIDE : 8]
    np.testing.assert_allclose(drawn.astype(int), tile, atol=1)


def test_several_dictionaries_and_stacked_streams(tmp_path):
    named = {"latents": [{**TABLES["latents"][0], "dictionary": "scale4"}]}
    rows = looked(tmp_path, named, streams=2, scale2=build(), scale4=build(k=4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scale2.png", "scale4.png"]
    ships = [row["dictionary"] for row in rows if row["class"] == "ship"]
    assert ships == ["scale4"]


def test_a_picture_without_concepts(tmp_path):
    sae = build(BatchTopK)
    sae.threshold.fill_(100)
    assert looked(tmp_path, sae=sae) == []
    assert Image.open(tmp_path / "concepts.png").width == 2 * GAP + 8 * SIDE
