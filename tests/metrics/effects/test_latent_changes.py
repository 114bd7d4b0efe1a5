"""How far latents rose, their ranks, and the null of random directions."""

import pytest
import torch

from diffdict.metrics.effects.latent_changes import SwitchedPairs, latent_rises

LATENTS = [10, 11, 12]
# two latents and two random directions, of two noises; off before on
LINE = [line for line in range(4) for _ in range(4)]
LATENT = [[10, 12, -1, -1][line] for line in LINE]
STRENGTH, NOISE = [0.0, 1.0] * 8, [0, 0, 1, 1] * 4


def pairs():
    return SwitchedPairs.of(LINE, LATENT, STRENGTH, NOISE)


def test_pairs_are_of_one_noise_whatever_their_order():
    assert pairs().off.tolist() == [[0, 2], [4, 6], [8, 10], [12, 14]]
    assert pairs().on.tolist() == [[1, 3], [5, 7], [9, 11], [13, 15]]
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0)).tolist()
    mixed = SwitchedPairs.of(*([row[i] for i in order] for row in (LINE, LATENT, STRENGTH, NOISE)))
    assert mixed.latents == pairs().latents == [10, 12, -1, -1]
    inverse = torch.tensor(order)
    assert torch.equal(inverse[mixed.off], pairs().off)
    assert torch.equal(inverse[mixed.on], pairs().on)


def test_strengths_between_off_and_on_are_left_out():
    line, strength = [0] * 6, [0.0, 0.5, 1.0] * 2
    found = SwitchedPairs.of(line, [10] * 6, strength, [0, 0, 0, 1, 1, 1])
    assert (found.off.tolist(), found.on.tolist()) == ([[0, 3]], [[2, 5]])


def test_rises_are_in_deviations_and_ranked_by_size():
    codes = torch.zeros(16, 3)
    codes[1], codes[3] = torch.tensor([1.0, 0, 3]), torch.tensor([3.0, 0, -1])  # mean: 2, 0, 1
    codes[5] = codes[7] = torch.tensor([-8.0, 6.0, 0.5])
    codes[9] = codes[11] = torch.tensor([0.5, 0.0, 1.0])
    codes[13] = codes[15] = torch.tensor([2.5, 0.0, -1.0])
    first, second = latent_rises(pairs(), codes, LATENTS, torch.tensor([2.0, 3.0, 0.5]))
    assert (first.latent, first.rise, first.rank) == (10, 1.0, 2)  # latent 12 changed by 2
    assert first.null == pytest.approx((0.25 + 1.25) / 2)
    assert first.p == pytest.approx(2 / 3)
    assert (second.rise, second.rank, second.null) == (1.0, 3, 0.0)


def test_without_random_directions_there_is_no_null():
    codes = torch.zeros(8, 3)
    few = SwitchedPairs.of(LINE[:8], LATENT[:8], STRENGTH[:8], NOISE[:8])
    found = latent_rises(few, codes, LATENTS, torch.ones(3))
    assert [(one.rise, one.null, one.p, one.rank) for one in found] == [(0, None, None, 1)] * 2


def test_what_never_varies_does_not_rise():
    codes = torch.rand(16, 3)
    found = latent_rises(pairs(), codes, LATENTS, torch.tensor([0.0, 1.0, 1.0]))
    assert found[0].rise == 0
