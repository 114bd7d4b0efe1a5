"""Unions of latents: joint counts against dense masks, greedy growth against every step."""

import pytest
import torch
from torch.nn import functional as F

from diffdict.errors import UserError
from diffdict.metrics.concepts import unions
from diffdict.metrics.concepts.overlap import Concepts
from diffdict.metrics.concepts.unions import Candidates, Unions, candidates

NAMES = ("skin", "hair", "hat")
LATENTS = 9


def made(seed=0, number=3, grid=(4, 5), size=(13, 16)):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(number, LATENTS, *grid, generator=generator)
    coarse = torch.tensor([0, 1, 7])[torch.randint(3, (number, 4, 4), generator=generator)]
    return maps, F.interpolate(coarse[:, None].double(), size=size)[:, 0].long()


def counted(maps, mask, thresholds, ranked):
    metric = Concepts(NAMES, thresholds, ranked=ranked, ignore_label=7)
    metric.update(maps, mask)
    return metric.compute()


def joined(chosen, maps, mask, ranked, parts=1):
    metric = Unions(NAMES, chosen, LATENTS, ranked=ranked, ignore_label=7)
    for some in torch.arange(len(maps)).chunk(parts):
        metric.update(lambda part, rows=slice(None), own=some: maps[own][:, part, rows], mask[some])
    return metric.compute()


def dense(maps, mask, ranked):
    """Pixels × latents that are active, as pre-activations or -inf."""
    pixels = F.interpolate(maps, size=mask.shape[1:], mode="bilinear").permute(0, 2, 3, 1)
    pixels = pixels.flatten(0, 2)
    if ranked:
        kept = pixels.topk(ranked).indices
        away = torch.full_like(pixels, -torch.inf)
        return away.scatter(1, kept, pixels.gather(1, kept))
    return pixels


@pytest.mark.parametrize("ranked", [None, 3])
def test_patterns_give_the_iou_of_every_union(ranked, monkeypatch):
    monkeypatch.setattr(unions, "PIECE", 120)  # latents in several goes
    maps, mask = made()
    thresholds = torch.rand(LATENTS, 2).sort(1).values
    chosen = candidates(counted(maps, mask, thresholds, ranked), thresholds, 4)
    patterns = joined(chosen, maps, mask, ranked, parts=2)
    pixels, labels = dense(maps, mask, ranked), mask.flatten()
    for union in range(1, 2**4):
        slots = [i for i in range(4) if union >> i & 1]
        got = patterns.iou([slots] * 3)
        for label in (0, 1):
            active = torch.stack(
                [pixels[:, chosen.latents[label, i]] > chosen.thresholds[label, i] for i in slots]
            ).any(0)[labels != 7]
            inside = labels[labels != 7] == label
            assert got[label] == (active & inside).sum() / (active | inside).sum().double()
        assert got[2].isnan()  # no picture has a hat


@pytest.mark.parametrize("ranked", [None, 3])
def test_one_latent_alone_has_the_counts_of_its_pair(ranked):
    maps, mask = made()
    thresholds = torch.zeros(LATENTS, 1)
    counts = counted(maps, mask, thresholds, ranked)
    chosen = candidates(counts, thresholds, 3)
    alone = joined(chosen, maps, mask, ranked).iou([[0]] * 3)
    assert torch.equal(alone[:2], counts.best()[0].amax(1)[:2])


def test_unions_grow_by_what_helps_most():
    maps, mask = made()
    thresholds = torch.zeros(LATENTS, 1)
    chosen = candidates(counted(maps, mask, thresholds, None), thresholds, 6)
    patterns = joined(chosen, maps, mask, None)
    for label, union in enumerate(patterns.grow(3)):
        assert union.latents == chosen.latents[label, union.slots].tolist()
        assert union.iou == sorted(union.iou)
        assert len(set(union.slots)) == len(union.slots) <= 3
        for size in range(1, len(union.slots) + 1):
            before = union.slots[: size - 1]
            tried = [
                float(patterns.iou([[*before, i]] * 3)[label]) for i in range(6) if i not in before
            ]
            assert union.iou[size - 1] == max(tried)
    assert patterns.grow(3)[2] == ([], [], [])  # absent
    other = joined(chosen, *made(1), None)
    slots = [union.slots for union in patterns.grow(3)]
    assert other.iou(slots)[:2].isfinite().all()  # the same unions on other pictures


def test_halves_of_a_class_are_put_together():
    mask = torch.tensor([0, 1, 1, 0]).repeat(8, 1).repeat_interleave(4, 1)[None]  # 8 × 16
    maps = torch.full((1, LATENTS, 4, 4), -1.0)
    maps[:, 3, :, 0] = maps[:, 5, :, 3] = 1  # the two sides that are skin
    thresholds = torch.zeros(LATENTS, 1)
    chosen = candidates(counted(maps, mask, thresholds, None), thresholds, 4)
    union = joined(chosen, maps, mask, None).grow(4)[0]
    assert sorted(union.latents) == [3, 5]
    assert union.iou[1] == pytest.approx(2 * union.iou[0])


def test_no_live_latents_make_no_union():
    maps, mask = made()
    thresholds = torch.full((LATENTS, 1), 100.0)
    for ranked in (None, 3):
        chosen = candidates(counted(maps, mask, thresholds, ranked), thresholds, 2)
        patterns = joined(chosen, maps, mask, ranked)
        assert patterns.grow() == [([], [], [])] * 3
        assert patterns.iou([[], [], []])[:2].tolist() == [0, 0]


def test_shards_of_patterns_add_up():
    maps, mask = made()
    chosen = Candidates(torch.tensor([[0, 1], [2, 3], [4, 5]]), torch.zeros(3, 2))
    one, other = (Unions(NAMES, chosen, LATENTS, ignore_label=7) for _ in range(2))
    one.update(maps[:1], mask[:1])
    other.update(maps[1:], mask[1:])
    one.merge_state(other)
    assert torch.equal(one.compute().counts, joined(chosen, maps, mask, None).counts)


def test_too_many_candidates_are_refused():
    maps, mask = made()
    thresholds = torch.zeros(LATENTS, 1)
    with pytest.raises(UserError, match="1 to 16 candidates"):
        candidates(counted(maps, mask, thresholds, None), thresholds, 17)
