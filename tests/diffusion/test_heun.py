"""Heun's sampler on pictures whose denoiser is known in closed form, and what it refuses."""

from functools import partial
from itertools import pairwise

import pytest
import torch

from diffdict.diffusion.edm import Levels
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddae_ddim, ddim, ddim_invert, ddpm, heun, length, own_noise
from diffdict.diffusion.schedules import make_schedule
from diffdict.errors import UserError

MEAN, SPREAD = 0.3, 0.4
LEVELS = Levels(sigma_max=5.0)


def denoised(x, sigma):
    """The expected picture where pictures are Gaussian, every pixel by itself."""
    sigma = sigma.reshape(-1, 1, 1, 1)
    return (SPREAD**2 * x + sigma**2 * MEAN) / (SPREAD**2 + sigma**2)


def exact(x, before, after):
    """Where the ODE of Gaussian pictures leads from one level to another."""
    return MEAN + (x - MEAN) * ((SPREAD**2 + after**2) / (SPREAD**2 + before**2)) ** 0.5


def noise(number=4, seed=0):
    return torch.randn(number, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_its_error_falls_by_four_when_steps_double():
    x = LEVELS.start(noise())
    errors = []
    for steps in (16, 32, 64, 128):
        end = heun(denoised, x, LEVELS, steps=steps, clip_denoised=False, stop=0).x
        expected = exact(x.double(), LEVELS.sigma_max, LEVELS.sigma_min)
        errors.append((end - expected).abs().max().item())
    for more, less in pairwise(errors):
        assert 3.4 < more / less < 4.6


def test_churn_without_inflation_keeps_the_variance():
    x = LEVELS.start(noise(4000))
    drawn = torch.Generator().manual_seed(1)
    far = {"s_min": 0, "s_max": 100, "s_noise": 1, "clip_denoised": False, "steps": 64}
    for how in ({"eta": 0.5}, {"churn": 10}):
        end = heun(denoised, x, LEVELS, noise=drawn, **far, **how).x
        assert end.std().item() == pytest.approx(SPREAD, rel=0.02)
        assert end.mean().item() == pytest.approx(MEAN, abs=0.02)
    inflated = heun(denoised, x, LEVELS, noise=drawn, **far | {"s_noise": 1.1}, eta=0.5).x
    assert inflated.std().item() > 1.03 * SPREAD


def test_steps_outside_the_churned_levels_draw_nothing():
    asked = []

    def draw(step):
        asked.append(step)
        return noise(seed=step)

    sigmas = Levels(18, sigma_max=5.0).noise_levels
    heun(denoised, LEVELS.start(noise()), LEVELS, noise=draw, eta=1.0)
    within = [k for k in reversed(range(18)) if 0.01 <= sigmas[k] <= 1]
    assert asked == within != []
    asked.clear()
    heun(denoised, LEVELS.start(noise()), LEVELS, noise=draw)
    assert asked == []


def test_churn_and_eta_are_two_measures_of_one_thing():
    x, draw = LEVELS.start(noise()), lambda step: noise(seed=step)
    by_eta = heun(denoised, x, LEVELS, noise=draw, eta=0.5).x
    by_churn = heun(denoised, x, LEVELS, noise=draw, churn=18 * 0.5 * (2**0.5 - 1)).x
    torch.testing.assert_close(by_eta, by_churn)
    most = heun(denoised, x, LEVELS, noise=draw, churn=1000).x
    torch.testing.assert_close(most, heun(denoised, x, LEVELS, noise=draw, eta=1.0).x)


def test_a_ladder_can_be_left_and_taken_up():
    x, draw = LEVELS.start(noise()), lambda step: noise(seed=step)
    keys = {"noise": draw, "eta": 0.7}
    seen = []
    whole = heun(denoised, x, LEVELS, record=[9], on_step=lambda *step: seen.append(step), **keys)
    upper = heun(denoised, x, LEVELS, stop=9, **keys).x
    assert torch.equal(upper, whole.states[9])
    assert torch.equal(heun(denoised, upper, LEVELS, start=9, **keys).x, whole.x)
    assert [step for step, _, _ in seen] == list(reversed(range(18)))
    assert torch.equal(seen[-1][1], whole.x)
    assert whole.x.dtype == torch.float64


def test_a_sample_is_the_same_in_any_batch():
    def drawn(indices):
        own = own_noise(3, indices, (3, 4, 4))
        return heun(denoised, LEVELS.start(own(18)), LEVELS, noise=own, eta=1.0).x

    assert torch.equal(drawn([5, 7, 9])[1:2], drawn([7]))


def test_clipping_keeps_pictures_in_range():
    wide = lambda x, sigma: denoised(x, sigma) * 10  # noqa: E731
    assert heun(wide, LEVELS.start(noise()), LEVELS).x.abs().max() <= 1
    assert heun(wide, LEVELS.start(noise()), LEVELS, clip_denoised=False).x.abs().max() > 1


def test_a_sampler_of_another_process_is_refused():
    x, chain, eps = noise(), make_schedule(), Objective(variance="fixed_small")
    with pytest.raises(
        UserError, match="heun goes along EDM's noise levels, this network has a ch"
    ):
        heun(denoised, x, chain)
    for sampler in (ddim, ddpm, ddae_ddim, ddim_invert):
        keys = {} if sampler is ddim_invert else {"noise": torch.Generator()}
        with pytest.raises(UserError, match=f"{sampler.__name__} goes along a chain of timesteps"):
            sampler(denoised, x, LEVELS, objective=eps, **keys)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 1}, "2 steps or more, got 1"),
        ({"eta": 1.5}, "sampler.eta is between 0"),
        ({"eta": 0.5}, "draws noise"),
        ({"churn": -1}, "sampler.churn ≥ 0"),
        ({"churn": 4, "eta": 0.5}, "takes the place of eta"),
        ({"s_min": 2}, "s_min ≤ sampler.s_max, got 2 and 1.0"),
        ({"start": 18}, "levels -1 to 17"),
        ({"objective": Objective()}, "heun reads predict=x0, got eps"),
    ],
)
def test_what_it_refuses(settings, said):
    with pytest.raises(UserError, match=said):
        heun(denoised, noise(), LEVELS, **settings)


def test_how_long_a_sampler_is():
    chain = make_schedule()
    assert length(partial(heun), LEVELS) == 18
    assert length(partial(heun, steps=5, s_max=4), LEVELS) == 5
    assert length(partial(ddim, respacing="ddim50"), chain) == 50
    assert length(partial(ddpm), chain) == 1000
    assert length(partial(ddae_ddim), chain) == 100
    for sampler, process, said in (
        (partial(heun), chain, "this network has a chain"),
        (partial(ddim), LEVELS, "this network has EDM's noise levels"),
        (partial(heun, steps=1), LEVELS, "2 steps or more"),
        (partial(heun, s_min=3), LEVELS, "s_min"),
        (partial(ddae_ddim, steps=300), chain, "divides 1000, got 300"),
        (partial(ddae_ddim, eta=2), chain, "sampler.eta"),
    ):
        with pytest.raises(UserError, match=said):
            length(sampler, process)
