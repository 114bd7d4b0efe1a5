"""Laws of the objectives: readings of an output, the bound, the weights, the gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch.distributions import Normal, kl_divergence

from diffdict.diffusion.objectives import (
    Objective,
    byte_log_likelihood,
    interpret,
    snr_weights,
    training_losses,
    vb_terms,
)
from diffdict.diffusion.schedules import make_schedule, q_posterior, q_sample, v_from_x0
from diffdict.errors import UserError

FULL = make_schedule("linear", 1000)
T = torch.tensor([0, 10, 500, 999])
PREDICTIONS = ("eps", "x0", "v")
law = settings(deadline=None, max_examples=50)
VARIANCES = ("fixed_small", "fixed_large", "learned_range")


def case(seed=0, t=T, schedule=FULL):
    """A picture, its noise, its noised self, and some output of six channels, in float64."""
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.rand(len(t), 3, 4, 4, generator=generator, dtype=torch.float64) * 2 - 1
    noise = torch.randn(len(t), 3, 4, 4, generator=generator, dtype=torch.float64)
    output = torch.randn(len(t), 6, 4, 4, generator=generator, dtype=torch.float64)
    return x0, noise, q_sample(schedule, x0, t, noise), output


def target(predict, x0, noise, t=T):
    return {"eps": noise, "x0": x0, "v": v_from_x0(FULL, x0, t, noise)}[predict]


@pytest.mark.parametrize("predict", PREDICTIONS)
@pytest.mark.parametrize("variance", VARIANCES)
def test_a_perfect_network_is_read_as_the_truth(predict, variance):
    x0, noise, x_t, output = case()
    output[:, :3] = target(predict, x0, noise)
    objective = Objective(predict, variance)
    guess = interpret(objective, FULL, output, x_t, T)
    torch.testing.assert_close(guess.x0, x0)
    torch.testing.assert_close(guess.eps, noise)
    torch.testing.assert_close(guess.mean, q_posterior(FULL, x0, x_t, T).mean)
    assert guess.log_variance.shape == x0.shape
    losses = training_losses(objective, FULL, output, x0, x_t, T, noise)
    torch.testing.assert_close(losses.mse, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_clipping_keeps_x0_and_eps_in_agreement(predict):
    _, _, x_t, output = case(1)
    guess = interpret(Objective(predict), FULL, 3 * output, x_t, T, clip_denoised=True)
    assert guess.x0.abs().max() == 1
    torch.testing.assert_close(q_sample(FULL, guess.x0, T, guess.eps), x_t)


def test_learned_variance_runs_between_its_bounds():
    _, _, x_t, output = case()
    small = interpret(Objective(variance="fixed_small"), FULL, output, x_t, T).log_variance
    for fraction, expected in ((-1, small), (1, FULL.log_betas[T, None, None, None])):
        output[:, 3:] = fraction
        got = interpret(Objective(), FULL, output, x_t, T).log_variance
        torch.testing.assert_close(got, expected.expand_as(got))
    large = interpret(Objective(variance="fixed_large"), FULL, output, x_t, T).log_variance
    torch.testing.assert_close(large[1:].exp().mean((1, 2, 3)), FULL.betas[T[1:]])
    torch.testing.assert_close(large[0], small[0])


@law
@given(st.floats(0.1, 50), st.sampled_from(PREDICTIONS))
def test_min_snr_weights_are_the_papers(gamma, predict):
    t = torch.arange(0, 1000, 7)
    weights = snr_weights(Objective(predict, weighting="min_snr", gamma=gamma), FULL, t)
    for i in range(0, len(t), 10):
        signal = math.prod(1 - b for b in FULL.betas[: int(t[i]) + 1].tolist())
        snr = signal / (1 - signal)
        divisor = {"eps": snr, "x0": 1, "v": snr + 1}[predict]
        assert weights[i].item() == pytest.approx(min(snr, gamma) / divisor, rel=1e-5)


@law
@given(st.integers(1, 999), st.floats(0.5, 20), st.sampled_from(VARIANCES))
def test_min_snr_loss_does_not_depend_on_what_is_predicted(t, gamma, variance):
    t = torch.tensor([t])
    x0, noise, x_t, output = case(2, t)
    guess = interpret(Objective(), FULL, output.clone(), x_t, t)
    losses = []
    for predict in PREDICTIONS:
        output[:, :3] = target(predict, guess.x0, guess.eps, t)
        objective = Objective(predict, variance, weighting="min_snr", gamma=gamma)
        losses.append(training_losses(objective, FULL, output, x0, x_t, t, noise).loss)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-5, atol=0)


def test_without_weighting_the_loss_is_the_mean_square():
    x0, noise, x_t, output = case()
    losses = training_losses(Objective(variance="fixed_large"), FULL, output, x0, x_t, T, noise)
    expected = torch.stack([((output[i, :3] - noise[i]) ** 2).mean() for i in range(4)])
    torch.testing.assert_close(losses.loss, expected)
    assert losses.vb is None


@pytest.mark.parametrize("predict", PREDICTIONS)
@pytest.mark.parametrize("variance", VARIANCES)
def test_bound_is_the_kl_of_another_library(predict, variance):
    t = torch.tensor([1, 10, 500, 999])
    x0, _, x_t, output = case(3, t)
    objective = Objective(predict, variance)
    ours = vb_terms(objective, FULL, output, x0, x_t, t)
    q = q_posterior(FULL, x0, x_t, t)
    p = interpret(objective, FULL, output, x_t, t)
    kl = kl_divergence(
        Normal(q.mean, q.variance.sqrt()), Normal(p.mean, (p.log_variance / 2).exp())
    )
    torch.testing.assert_close(ours, kl.mean((1, 2, 3)) / math.log(2))


def test_last_term_of_the_bound_is_the_likelihood_of_the_bytes():
    t = torch.zeros(4, dtype=torch.int64)
    x0, _, x_t, output = case(4, t)
    x0 = ((x0 + 1) * 127.5).round() / 127.5 - 1
    p = interpret(Objective(), FULL, output, x_t, t)
    likelihood = byte_log_likelihood(x0, p.mean, p.log_variance / 2).mean((1, 2, 3))
    ours = vb_terms(Objective(), FULL, output, x0, x_t, t)
    torch.testing.assert_close(ours, -likelihood / math.log(2))


@law
@given(st.floats(-1.2, 1.2), st.floats(-6.0, 1.0))
def test_bytes_share_the_whole_mass_as_the_gaussian_does(mean, log_scale):
    x = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    mass = byte_log_likelihood(x, torch.full_like(x, mean), torch.full_like(x, log_scale)).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-9)
    edges = [-math.inf, *(x[:-1] + 1 / 255).tolist(), math.inf]
    exact = norm(mean, math.exp(log_scale)).cdf(edges)
    # each end of a byte is off by less than 2e-4, the tanh form's distance from the normal CDF
    torch.testing.assert_close(mass, torch.from_numpy(exact).diff(), rtol=0, atol=4e-4)


def gradient(objective, part):
    x0, noise, x_t, output = case(5)
    output.requires_grad_()
    losses = training_losses(objective, FULL, output, x0, x_t, T, noise)
    (grad,) = torch.autograd.grad(getattr(losses, part).sum(), output)
    return grad


@pytest.mark.parametrize("loss", ["mse", "rescaled_mse"])
def test_hybrid_loss_teaches_the_mean_by_the_square_alone(loss):
    learned = gradient(Objective(loss=loss), "loss")
    fixed = gradient(Objective(variance="fixed_small"), "loss")
    torch.testing.assert_close(learned[:, :3], fixed[:, :3])
    assert (fixed[:, 3:] == 0).all()
    assert (gradient(Objective(loss=loss), "vb")[:, :3] == 0).all()
    assert (learned[:, 3:].abs().amax((1, 2, 3)) > 0).all()


def test_kl_loss_teaches_mean_and_variance():
    grad = gradient(Objective(loss="kl"), "loss")
    assert (grad[1:, :3].abs().amax((1, 2, 3)) > 0).all()
    assert (grad[1:, 3:].abs().amax((1, 2, 3)) > 0).all()
    assert grad.isfinite().all()


@pytest.mark.parametrize("steps", [50, 1000])
def test_rescaling_counts_the_steps_of_the_chain(steps):
    schedule = make_schedule("linear", 1000, steps)
    t = torch.tensor([0, 7, 20, 49])
    x0, noise, x_t, output = case(6, t, schedule)

    def losses(loss):
        return training_losses(Objective(loss=loss), schedule, output, x0, x_t, t, noise)

    plain, rescaled = losses("mse"), losses("rescaled_mse")
    torch.testing.assert_close(rescaled.vb, plain.vb * steps / 1000)
    torch.testing.assert_close(rescaled.loss, rescaled.mse + rescaled.vb)
    torch.testing.assert_close(losses("kl").loss, plain.vb)
    torch.testing.assert_close(losses("rescaled_kl").loss, plain.vb * steps)


@pytest.mark.parametrize("loss", ["mse", "kl"])
def test_a_batch_equals_its_singles(loss):
    x0, noise, x_t, output = case(7)
    objective = Objective(loss=loss, weighting="min_snr")
    batch = training_losses(objective, FULL, output, x0, x_t, T, noise)
    for i in range(4):
        one = [tensor[i : i + 1] for tensor in (output, x0, x_t, T, noise)]
        single = training_losses(objective, FULL, *one)
        for ours, theirs in zip(single, batch, strict=True):
            torch.testing.assert_close(ours, theirs[i : i + 1])


def test_half_precision_outputs_are_weighed_in_float32():
    x0, noise, x_t, output = (tensor.float() for tensor in case(8))
    half = output.bfloat16()
    got = training_losses(Objective(), FULL, half, x0, x_t, T, noise)
    wide = training_losses(Objective(), FULL, half.float(), x0, x_t, T, noise)
    for ours, theirs in zip(got, wide, strict=True):
        assert ours.dtype == torch.float32
        # the network's variance channels are halved and shifted in bfloat16
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("predict", "epsilon", "eps, x0, v"),
        ("variance", "learned", "fixed_small, fixed_large, learned_range"),
        ("loss", "l2", "mse, rescaled_mse, kl, rescaled_kl"),
        ("weighting", "snr", "none, min_snr"),
        ("gamma", 0.0, "must be positive"),
        ("gamma", math.nan, "must be positive"),
    ],
)
def test_objectives_that_cannot_be_are_refused(key, value, words):
    with pytest.raises(UserError, match=words):
        Objective(**{key: value})


@pytest.mark.parametrize(
    ("variance", "channels", "words"),
    [("learned_range", 3, "learn_sigma=true"), ("fixed_small", 5, "learn_sigma=false")],
)
def test_outputs_of_the_wrong_width_are_refused(variance, channels, words):
    _, _, x_t, output = case()
    with pytest.raises(UserError, match=words):
        interpret(Objective(variance=variance), FULL, output[:, :channels], x_t, T)
