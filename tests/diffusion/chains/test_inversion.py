"""Laws of inversion: exact in closed form where the network's answer is, better with more steps."""

import math
from itertools import pairwise

import pytest
import torch

from diffdict.diffusion.chains.inversion import picture_error, psnr, round_trip, steps_one_way
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.schedules import make_schedule, respace
from diffdict.errors import UserError
from tests.diffusion.test_samplers import gaussian_net

FULL = make_schedule("linear", 1000)
FIXED = Objective(variance="fixed_small")
NOISE = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def pictures(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 2, 2, generator=generator, dtype=torch.float64) * 2 - 1


def levels(respacing):
    """The signal's share at each level of the chain."""
    return respace(FULL, respacing).alphas_cumprod.tolist()


@pytest.mark.parametrize("respacing", ["2", "ddim10", "10,10,5", ""])
def test_a_constant_noise_is_added_and_taken_away(respacing):
    x = pictures()
    trip = round_trip(
        lambda x, t: NOISE.expand_as(x), x, FULL, objective=FIXED, respacing=respacing
    )
    first, last = levels(respacing)[0], levels(respacing)[-1]
    picture = (x - math.sqrt(1 - first) * NOISE) / math.sqrt(first)  # that level 0 implies
    expected = math.sqrt(last) * picture + math.sqrt(1 - last) * NOISE
    torch.testing.assert_close(trip.noise, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(trip.back, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("respacing", ["2", "ddim10", "10,10,5"])
def test_a_noise_in_proportion_to_the_picture_gives_products(respacing):
    share, x = 0.4, pictures()
    trip = round_trip(lambda x, t: share * x, x, FULL, objective=FIXED, respacing=respacing)

    def step(a, b):
        """What a step from a level of signal a to one of signal b multiplies by."""
        kept = math.sqrt(b / a) * (1 - math.sqrt(1 - a) * share)
        return kept + math.sqrt(1 - b) * share

    known = levels(respacing)
    up = math.prod(step(a, b) for a, b in pairwise(known))
    down = math.prod(step(b, a) for a, b in pairwise(known))
    torch.testing.assert_close(trip.noise, up * x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(trip.back, up * down * x, rtol=1e-9, atol=1e-9)


def test_the_error_falls_with_the_steps():
    x, errors = 0.3 + 0.5 * pictures(64), []
    for steps in (10, 50, 250, 1000):
        trip = round_trip(gaussian_net, x, FULL, objective=FIXED, respacing=steps)
        errors.append(picture_error(trip.back, x).rmse.mean().item())
    assert all(more > 3 * fewer for more, fewer in pairwise(errors)), errors
    assert errors[-1] < 0.005


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_whatever_the_network_predicts_the_noise_is_the_same(predict):
    def net(x, t):
        eps = gaussian_net(x, t)
        signal = FULL.alphas_cumprod[t].reshape(-1, 1, 1, 1)
        x0 = (x - (1 - signal).sqrt() * eps) / signal.sqrt()
        return {"eps": eps, "x0": x0, "v": signal.sqrt() * eps - (1 - signal).sqrt() * x0}[predict]

    keys = {"respacing": "25"}
    found = round_trip(net, pictures(), FULL, objective=Objective(predict, "fixed_small"), **keys)
    expected = round_trip(gaussian_net, pictures(), FULL, objective=FIXED, **keys)
    torch.testing.assert_close(found.noise, expected.noise)
    torch.testing.assert_close(found.back, expected.back)


def test_the_way_back_is_left_out_and_every_step_is_told():
    for back, times in (False, 9), (True, 18):
        told = []
        trip = round_trip(
            gaussian_net,
            pictures(),
            FULL,
            objective=FIXED,
            respacing="ddim10",
            back=back,
            on_step=lambda step, *_, told=told: told.append(step),
        )
        assert (trip.back is None) is not back
        assert len(told) == times == steps_one_way(FULL, "ddim10") * (1 + back)


def test_a_chain_of_one_step_leads_nowhere():
    with pytest.raises(UserError, match="a single step"):
        round_trip(gaussian_net, pictures(), FULL, objective=FIXED, respacing="1")


def test_errors_are_of_each_picture():
    x = torch.zeros(3, 3, 2, 2)
    other = x.clone()
    other[1] += 0.5
    other[2, 0, 0, 0] = -2
    error = picture_error(x, other)
    assert error.rmse.tolist() == pytest.approx([0, 0.5, 2 / math.sqrt(12)])
    assert error.largest.tolist() == [0, 0.5, 2]
    assert (psnr(2.0), psnr(0.2), psnr(0.0)) == (0, pytest.approx(20), math.inf)
