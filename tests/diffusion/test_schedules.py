"""Laws of the noise schedules: tables, marginals, posteriors, respacing."""

import math
import re
from dataclasses import fields
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffdict.diffusion.schedules import (
    eps_from_v,
    eps_from_x0,
    gather,
    make_schedule,
    q_mean_variance,
    q_posterior,
    q_sample,
    respace,
    respaced_timesteps,
    v_from_x0,
    x0_from_eps,
    x0_from_v,
)
from diffdict.errors import UserError

FULL = make_schedule("linear", 1000)
NAMES = st.sampled_from(["linear", "cosine", "constant"])
LENGTHS = st.integers(21, 300)
law = settings(deadline=None, max_examples=50)


def pictures(seed, batch=4):
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.rand(batch, 3, 4, 4, generator=generator, dtype=torch.float64) * 2 - 1
    return x0, torch.randn(batch, 3, 4, 4, generator=generator, dtype=torch.float64)


@law
@given(NAMES, LENGTHS)
def test_tables_are_float64_finite_and_of_one_length(name, length):
    schedule = make_schedule(name, length)
    for field in fields(schedule):
        table = getattr(schedule, field.name)
        assert table.shape == (schedule.steps,)
        assert table.dtype == (torch.int64 if field.name == "timesteps" else torch.float64)
        assert table.isfinite().all(), field.name


@law
@given(NAMES, LENGTHS)
def test_signal_falls_from_one_to_almost_nothing(name, length):
    schedule = make_schedule(name, length)
    signal = torch.cat([torch.ones(1), schedule.alphas_cumprod])
    assert (signal.diff() < 0).all()
    assert signal[-1] < 1e-3
    torch.testing.assert_close(schedule.alphas_cumprod_prev[1:], schedule.alphas_cumprod[:-1])
    torch.testing.assert_close(schedule.alphas_cumprod_next[:-1], schedule.alphas_cumprod[1:])
    assert schedule.alphas_cumprod_prev[0] == 1
    assert schedule.alphas_cumprod_next[-1] == 0


@pytest.mark.parametrize("steps", [50, 1000, 4000])
def test_cosine_signal_is_a_cosine(steps):
    schedule = make_schedule("cosine", steps)
    for i in (0, steps // 3, steps - 2):
        angle = [((at / steps) + 0.008) / 1.008 * math.pi / 2 for at in (0, i + 1)]
        expected = (math.cos(angle[1]) / math.cos(angle[0])) ** 2
        assert schedule.alphas_cumprod[i].item() == pytest.approx(expected, rel=1e-9)
    assert schedule.betas.max() == 0.999


@pytest.mark.parametrize("steps", [100, 1000, 4000])
def test_linear_betas_scale_with_the_length(steps):
    betas = make_schedule("linear", steps).betas
    assert betas[0].item() == pytest.approx(0.1 / steps)
    assert betas[-1].item() == pytest.approx(20 / steps)
    assert betas.sum().item() == pytest.approx(10.05)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("t", [0, 40, 300, 999])
def test_q_sample_has_the_moments_of_q(name, t):
    schedule = make_schedule(name)
    n = 100_000
    x0 = torch.full((n, 1), 0.7)
    noise = torch.randn(n, 1, generator=torch.Generator().manual_seed(t))
    times = torch.full((n,), t)
    drawn = q_sample(schedule, x0, times, noise)
    q = q_mean_variance(schedule, x0, times)
    spread = q.variance[0].sqrt().item()
    assert drawn.mean().item() == pytest.approx(q.mean[0].item(), abs=4 * spread / n**0.5)
    assert drawn.std().item() == pytest.approx(spread, rel=4 / (2 * n) ** 0.5)
    torch.testing.assert_close(q.variance.log(), q.log_variance, rtol=1e-3, atol=1e-3)


@law
@given(NAMES, LENGTHS, st.data())
def test_posterior_is_what_bayes_says(name, length, data):
    schedule = make_schedule(name, length)
    t = torch.tensor(
        data.draw(st.lists(st.integers(1, schedule.steps - 1), min_size=4, max_size=4))
    )
    x0, x_t = pictures(0)
    beta, signal = schedule.betas[t, None, None, None], schedule.alphas_cumprod[t - 1]
    signal = signal[:, None, None, None]
    # prior N(√ᾱ_{t-1} x_0, 1-ᾱ_{t-1}) times likelihood N(x_t; √α_t x_{t-1}, β_t)
    precision = 1 / (1 - signal) + (1 - beta) / beta
    mean = (signal.sqrt() * x0 / (1 - signal) + (1 - beta).sqrt() * x_t / beta) / precision
    posterior = q_posterior(schedule, x0, x_t, t)
    torch.testing.assert_close(posterior.mean, mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(posterior.variance, 1 / precision, rtol=1e-8, atol=0)
    torch.testing.assert_close(posterior.log_variance, -precision.log(), rtol=1e-8, atol=1e-8)


def test_last_posterior_is_x0_itself():
    x0, x_t = pictures(1)
    posterior = q_posterior(FULL, x0, x_t, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(posterior.mean, x0)
    assert (posterior.variance == 0).all()
    assert (posterior.log_variance == FULL.posterior_variance[1].log()).all()


@law
@given(NAMES, LENGTHS, st.data(), st.integers(0, 9))
def test_x0_eps_and_v_say_the_same(name, length, data, seed):
    schedule = make_schedule(name, length)
    t = torch.tensor(
        data.draw(st.lists(st.integers(0, schedule.steps - 1), min_size=4, max_size=4))
    )
    x0, noise = pictures(seed)
    x_t = q_sample(schedule, x0, t, noise)
    v = v_from_x0(schedule, x0, t, noise)
    close = {"rtol": 1e-7, "atol": 1e-7}
    torch.testing.assert_close(x0_from_v(schedule, x_t, t, v), x0, **close)
    torch.testing.assert_close(eps_from_v(schedule, x_t, t, v), noise, **close)
    torch.testing.assert_close(eps_from_x0(schedule, x_t, t, x0), noise, **close)
    recovered = x0_from_eps(schedule, x_t, t, noise)
    torch.testing.assert_close(q_sample(schedule, recovered, t, noise), x_t, **close)


@pytest.mark.parametrize("spec", [1000, "1000", "ddim1000", "500,500", [250] * 4])
def test_respaced_at_full_steps_is_full(spec):
    again = respace(FULL, spec)
    assert again.timesteps.tolist() == list(range(1000))
    for field in fields(FULL):
        ours, theirs = getattr(again, field.name), getattr(FULL, field.name)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=field.name)


@law
@given(st.integers(2, 1000))
def test_a_count_keeps_both_ends_in_even_strides(count):
    kept = torch.tensor(respaced_timesteps(1000, count))
    assert kept[0] == 0
    assert kept[-1] == 999
    assert len(kept) == count
    stride = 999 / (count - 1)
    assert (kept.diff() >= math.floor(stride)).all()
    assert (kept.diff() <= math.ceil(stride)).all()


@law
@given(st.integers(1, 1000), st.integers(21, 1000))
def test_ddim_takes_one_whole_stride_or_says_which_counts_do(count, steps):
    try:
        kept = respaced_timesteps(steps, f"ddim{count}")
    except UserError as error:
        asked, *near = re.findall(r"ddim(\d+)", str(error))
        assert int(asked) == count
        assert near
        assert all(len(respaced_timesteps(steps, f"ddim{n}")) == int(n) for n in near)
        return
    assert len(kept) == count
    assert kept[0] == 0
    assert len({b - a for a, b in pairwise(kept)}) <= 1


@law
@given(NAMES, LENGTHS, st.data())
def test_a_respaced_chain_has_the_marginals_of_the_full_one(name, length, data):
    schedule = make_schedule(name, length)
    short = respace(schedule, data.draw(st.integers(1, schedule.steps)))
    full = schedule.alphas_cumprod[short.timesteps]
    torch.testing.assert_close(short.alphas_cumprod, full, rtol=1e-9, atol=0)
    shorter = respace(short, data.draw(st.integers(1, short.steps)))
    full = schedule.alphas_cumprod[shorter.timesteps]
    torch.testing.assert_close(shorter.alphas_cumprod, full, rtol=1e-9, atol=0)
    for field in fields(shorter):
        assert getattr(shorter, field.name).isfinite().all(), field.name


def test_gathered_values_are_rounded_once():
    t = torch.tensor([0, 500, 999])
    exact = FULL.sqrt_recipm1_alphas_cumprod[t]
    wide = gather(FULL.sqrt_recipm1_alphas_cumprod, t, torch.zeros(3, 2, 2, dtype=torch.float64))
    assert torch.equal(wide, exact.reshape(3, 1, 1))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        got = gather(FULL.sqrt_recipm1_alphas_cumprod, t, torch.zeros(3, 2, dtype=dtype))
        assert torch.equal(got, exact.float().reshape(3, 1))


def test_a_batch_equals_its_singles_and_keeps_its_dtype():
    x0, noise = pictures(2)
    t = torch.tensor([0, 10, 500, 999])
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        batch = q_sample(FULL, x0.to(dtype), t, noise.to(dtype))
        assert batch.dtype == dtype
        for i in range(4):
            one = slice(i, i + 1)
            single = q_sample(FULL, x0[one].to(dtype), t[one], noise[one].to(dtype))
            assert torch.equal(single, batch[one])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("ddim300", "ddim250 or ddim334"),
        ("ddim2000", 'use ddim1000, or "1000"'),
        ("1001", "section of 1000"),
        ("400,400,400", "section of 334"),
        ("ddim5,5", "not of a known form"),
        ("0", "not of a known form"),
        ("-5", "not of a known form"),
        ("fifty", "not of a known form"),
        ("10,,5", "not of a known form"),
    ],
)
def test_respacings_that_cannot_be_are_refused(spec, words):
    with pytest.raises(UserError, match=words):
        make_schedule("linear", 1000, spec)


@pytest.mark.parametrize(
    ("name", "steps", "words"),
    [
        ("linaer", 1000, "linear, cosine, constant"),
        ("constant", 8, "more than 8 steps"),
        ("linear", 20, "more than 20 steps"),
        ("cosine", 0, "at least one step"),
    ],
)
def test_schedules_that_cannot_be_are_refused(name, steps, words):
    with pytest.raises(UserError, match=words):
        make_schedule(name, steps)


def test_linspace_has_both_ends_and_no_step_twice():
    assert respaced_timesteps(1000, "linspace5") == [0, 199, 399, 599, 799, 999]
    hundred = respaced_timesteps(1000, "linspace100")
    assert (len(hundred), hundred[:4], hundred[-3:]) == (101, [0, 9, 19, 29], [979, 989, 999])
    assert respaced_timesteps(1000, "linspace1000") == list(range(1000))


@pytest.mark.parametrize("spec", ["linspace", "linspace0", "linspace1001", "linspace5,5"])
def test_linspaces_that_cannot_be(spec):
    with pytest.raises(UserError, match=rf"Respacing {spec} of 1000 steps: the number after"):
        respaced_timesteps(1000, spec)
