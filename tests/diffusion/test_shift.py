"""The code's gradient in the noise: its tables, and what follows from them."""

import torch

from diffdict.diffusion.objectives import Objective, interpret
from diffdict.diffusion.schedules import gather, make_schedule, q_posterior, x0_from_eps
from diffdict.diffusion.shift import (
    gap_losses,
    gap_weight,
    ode_eps,
    posterior_eps,
    shift_coefficient,
)

FULL = make_schedule("linear", 1000)
EPS = Objective(variance="fixed_small")


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_published_tables(golden):
    case = golden("diti_small")
    at = case.facts["schedule_indices"]
    case.check("schedule.shift_coef", shift_coefficient(FULL)[at])
    case.check("schedule.weight", gap_weight(FULL)[at])


def test_a_gradient_moves_the_posterior_mean_by_its_variance():
    """The coefficient is what makes the mean shift by variance × gradient, as a score does."""
    x_t, eps, gradient = (normal(seed, 5, 3, 4, 4) for seed in (1, 2, 3))
    t = torch.tensor([0, 1, 40, 500, 999])
    moved = posterior_eps(FULL, eps, gradient, t)
    mean = interpret(EPS, FULL, moved, x_t, t).mean
    bare = interpret(EPS, FULL, eps, x_t, t).mean
    variance = gather(FULL.posterior_variance, t, x_t)
    torch.testing.assert_close(mean - bare, variance * gradient, rtol=1e-9, atol=1e-12)


def test_a_gradient_moves_the_score_of_the_ode():
    """The score is -eps / sqrt(1 - abar), and the gradient is added to it."""
    eps, gradient, t = normal(1, 2, 3, 4, 4), normal(2, 2, 3, 4, 4), torch.tensor([0, 700])
    spread = gather(FULL.sqrt_one_minus_alphas_cumprod, t, eps)
    score = -ode_eps(FULL, eps, gradient, t) / spread
    torch.testing.assert_close(score, -eps / spread + gradient)


def test_no_gradient_moves_nothing():
    eps, zero, t = normal(1, 2, 3, 4, 4), torch.zeros(2, 3, 4, 4).double(), torch.tensor([3, 999])
    assert torch.equal(posterior_eps(FULL, eps, zero, t), eps)
    assert torch.equal(ode_eps(FULL, eps, zero, t), eps)


def test_the_first_step_has_no_posterior_to_move():
    assert shift_coefficient(FULL)[0] == 0
    assert (shift_coefficient(FULL)[1:] < 0).all()


def test_a_respaced_chain_has_coefficients_of_its_own():
    short = make_schedule("linear", 1000, "10")
    same_noise = shift_coefficient(FULL)[short.timesteps]
    assert not torch.allclose(shift_coefficient(short)[1:], same_noise[1:], rtol=1e-3)
    x_t, eps, gradient = (normal(seed, 2, 3, 4, 4) for seed in (1, 2, 3))
    t = torch.tensor([4, 9])
    x0 = x0_from_eps(short, x_t, t, posterior_eps(short, eps, gradient, t))
    bare = x0_from_eps(short, x_t, t, eps)
    shift = q_posterior(short, x0, x_t, t).mean - q_posterior(short, bare, x_t, t).mean
    torch.testing.assert_close(shift, gather(short.posterior_variance, t, x_t) * gradient)


def test_the_loss_is_nothing_where_the_gradient_fills_the_gap():
    noise, eps, t = normal(1, 3, 3, 4, 4), normal(2, 3, 3, 4, 4), torch.tensor([1, 300, 999])
    gradient = (noise - eps) / gather(shift_coefficient(FULL), t, eps)
    torch.testing.assert_close(gap_losses(FULL, noise, eps, gradient, t), torch.zeros(3).double())
    bare = gap_losses(FULL, noise, eps, torch.zeros_like(eps), t)
    expected = gap_weight(FULL)[t] * ((noise - eps) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(bare, expected, rtol=1e-6, atol=0)


def test_the_weight_rises_at_half_noise_and_gamma_lifts_the_ends():
    snr = FULL.alphas_cumprod / (1 - FULL.alphas_cumprod)
    torch.testing.assert_close(gap_weight(FULL, 0.0), 1 / (1 + snr))
    torch.testing.assert_close(gap_weight(FULL) / gap_weight(FULL, 0.0), snr**0.1)
