"""Laws of the samplers: exact on a Gaussian, inverses, legs, and noise that a sample owns."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from diffdict.diffusion.objectives import Objective, training_losses
from diffdict.diffusion.samplers import ddim, ddim_invert, ddpm, own_noise
from diffdict.diffusion.schedules import make_schedule, respace
from diffdict.errors import UserError

CONF = Path(__file__).parents[2] / "conf" / "sampler"
FULL = make_schedule("linear", 1000)
FIXED = Objective(variance="fixed_small")
law = settings(deadline=None, max_examples=30)
MEAN, VARIANCE = 0.3, 0.25  # of the Gaussian that plays the data


def gaussian_net(x, t):
    """The noise that the best of all networks sees in x_t when the data is that Gaussian."""
    signal = FULL.alphas_cumprod[t].reshape(-1, 1, 1, 1)
    spread = signal * VARIANCE + 1 - signal
    return (1 - signal).sqrt() * (x - signal.sqrt() * MEAN) / spread


def pictures(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 2, 2, generator=generator, dtype=torch.float64)


def noisy(eta):
    """ddim with that much noise, and a name by which the test reports it."""

    def sampler(*args, **keys):
        return ddim(*args, eta=eta, **keys)

    sampler.__name__ = f"ddim-eta-{eta}"
    return sampler


def moments(sampler, spec, **keys):
    """The exact mean and variance of the samples: the chain is affine in its start and noises."""
    steps = respace(FULL, spec).steps
    # one sample starts at 1, another has only zeros, and of each other one noise alone is 1
    x = torch.zeros(steps + 2, 1, 1, 1, dtype=torch.float64)
    x[-1] = 1

    def impulse(step):
        unit = torch.zeros_like(x)
        unit[step] = 1
        return unit

    keys = {"objective": FIXED, "respacing": spec, "clip_denoised": False} | keys
    final = sampler(gaussian_net, x, FULL, noise=impulse, **keys).x.flatten()
    mean = final[-2].item()
    return mean, ((final - mean) ** 2).sum().item()


def predicted_moments(spec):
    """The same for ddpm, by the recursion of a conditional expectation and a posterior variance."""
    short = respace(FULL, spec)
    mean, variance = 0.0, 1.0
    for k in reversed(range(short.steps)):
        now, beta = short.alphas_cumprod[k].item(), short.betas[k].item()
        before = now / (1 - beta)
        gain = now**0.5 * VARIANCE / (now * VARIANCE + 1 - now)  # of E[x_0|x_t] on x_t
        from_x0, from_x_t = before**0.5 * beta / (1 - now), (1 - before) * (1 - beta) ** 0.5
        slope = from_x0 * gain + from_x_t / (1 - now)
        mean = slope * mean + from_x0 * (MEAN - gain * now**0.5 * MEAN)
        variance = slope**2 * variance + (beta * (1 - before) / (1 - now) if k else 0)
    return mean, variance


@pytest.mark.parametrize("spec", ["1", "10", "ddim25", "10,10,5", ""])
def test_ddpm_on_a_gaussian_has_the_moments_of_its_recursion(spec):
    assert moments(ddpm, spec) == pytest.approx(predicted_moments(spec), rel=1e-9)


@pytest.mark.parametrize("sampler", [ddpm, noisy(0.0), noisy(0.5)])
def test_samples_of_a_gaussian_approach_the_data_as_steps_grow(sampler):
    errors = []
    for steps in (10, 100, 1000):
        mean, variance = moments(sampler, steps)
        errors.append(abs(mean - MEAN) + abs(variance / VARIANCE - 1))
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    assert errors[2] < 0.02


@pytest.mark.parametrize("spec", ["", "50", "ddim25"])
@pytest.mark.parametrize("clip", [False, True])
def test_ddim_at_eta_1_is_ddpm_with_the_small_variance(spec, clip):
    noise = own_noise(0, range(4), (3, 2, 2))
    keys = {"objective": FIXED, "noise": noise, "respacing": spec, "clip_denoised": clip}
    x = pictures()
    ours = ddim(gaussian_net, x, FULL, eta=1.0, **keys).x
    torch.testing.assert_close(ours, ddpm(gaussian_net, x, FULL, **keys).x, rtol=1e-6, atol=1e-8)


def test_ddim_at_eta_0_draws_nothing():
    x = pictures()
    state = torch.random.get_rng_state()
    first = ddim(gaussian_net, x, FULL, objective=FIXED, respacing="ddim50").x
    torch.randn(7)
    second = ddim(gaussian_net, x, FULL, objective=FIXED, respacing="ddim50").x
    assert torch.equal(first, second)
    torch.random.set_rng_state(state)
    ddim(gaussian_net, x, FULL, objective=FIXED, respacing="ddim50")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_ddim_inverts_better_with_more_steps():
    x0 = MEAN + VARIANCE**0.5 * pictures(64)
    errors = []
    for steps in (10, 100, 1000):
        keys = {"objective": FIXED, "respacing": steps, "clip_denoised": False}
        encoded = ddim_invert(gaussian_net, x0, FULL, **keys).x
        decoded = ddim(gaussian_net, encoded, FULL, **keys).x
        errors.append((decoded - x0).square().mean().sqrt().item())
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    assert errors[2] < 0.01
    assert encoded.mean().item() == pytest.approx(0, abs=0.2)
    assert encoded.std().item() == pytest.approx(1, abs=0.1)


SAMPLERS = {
    "ddpm": lambda *a, **k: ddpm(*a, noise=own_noise(3, range(4), (3, 2, 2)), **k),
    "ddim": lambda *a, **k: ddim(*a, eta=0.5, noise=own_noise(3, range(4), (3, 2, 2)), **k),
    "ddim_invert": ddim_invert,
}
ENDS = {"ddpm": (24, -1), "ddim": (24, -1), "ddim_invert": (0, 24)}


@law
@given(st.sampled_from(sorted(SAMPLERS)), st.data())
def test_two_legs_are_the_whole_way(name, data):
    start, stop = ENDS[name]
    half = data.draw(st.integers(min(start, stop), max(start, stop)))
    keys = {"objective": FIXED, "respacing": "ddim25"}
    x, run = pictures(), SAMPLERS[name]
    whole = run(gaussian_net, x, FULL, record=[start, half, stop], **keys)
    first = run(gaussian_net, x, FULL, start=start, stop=half, **keys)
    second = run(gaussian_net, first.x, FULL, start=half, stop=stop, **keys)
    assert torch.equal(second.x, whole.x)
    assert set(whole.states) == {start, half, stop}
    assert torch.equal(whole.states[half], first.x)
    assert torch.equal(whole.states[start], x)
    assert torch.equal(whole.states[stop], whole.x)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_the_network_hears_original_timesteps_and_the_caller_every_step(name):
    heard, seen = [], []

    def net(x, t):
        assert t.dtype == torch.int64
        assert t.shape == (4,)
        heard.append(t[0].item())
        return gaussian_net(x, t)

    def on_step(step, x, x0):
        assert x0.abs().max() <= 1
        seen.append((step, x))

    keys = {"objective": FIXED, "respacing": "10,10,5", "clip_denoised": True}
    final = SAMPLERS[name](net, 3 * pictures(), FULL, on_step=on_step, **keys)
    up = name == "ddim_invert"
    steps = list(range(24)) if up else list(reversed(range(25)))
    kept = respace(FULL, "10,10,5").timesteps
    assert [step for step, _ in seen] == steps
    assert heard == kept[steps].tolist()
    assert torch.equal(seen[-1][1], final.x)


@pytest.mark.parametrize("sampler", [ddpm, noisy(0.7)])
def test_a_sample_owns_its_noise_whatever_the_batch(sampler):
    def sample(indices):
        noise = own_noise(5, indices, (3, 2, 2))
        x = noise(FULL.steps).double()
        return sampler(gaussian_net, x, FULL, objective=FIXED, noise=noise, respacing="50").x

    together = sample(range(6))
    apart = torch.cat([sample([0]), sample([1, 2]), sample([5, 4, 3]).flip(0)])
    torch.testing.assert_close(together, apart)
    assert len({row.sum().item() for row in together}) == 6


@law
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=2, max_size=9, unique=True))
def test_own_noise_differs_by_seed_index_and_step(keys):
    draws = [own_noise(seed, [index], (8,))(step) for seed, index, step in keys]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == len(keys)


def test_own_noise_is_standard_normal_and_uncorrelated():
    noise = own_noise(0, range(200), (3, 8, 8))
    first, second = noise(3).flatten(), noise(4).flatten()
    n = len(first)
    assert first.mean().item() == pytest.approx(0, abs=4 / n**0.5)
    assert first.std().item() == pytest.approx(1, abs=4 / (2 * n) ** 0.5)
    assert (first * second).mean().item() == pytest.approx(0, abs=4 / n**0.5)
    assert (first[:-192] * first[192:]).mean().item() == pytest.approx(0, abs=5 / n**0.5)


@pytest.mark.parametrize("sampler", [ddpm, noisy(1.0)])
def test_a_generator_repeats_itself(sampler):
    def sample(seed):
        keys = {"objective": FIXED, "noise": torch.Generator().manual_seed(seed)}
        return sampler(gaussian_net, pictures(), FULL, respacing="50", **keys).x

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))


@pytest.mark.parametrize("predict", ["eps", "x0"])
def test_samplers_need_no_gradients_and_read_any_prediction(predict):
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def net(x, t):
        eps = gaussian_net(x, t)
        signal = FULL.alphas_cumprod[t].reshape(-1, 1, 1, 1)
        x0 = (x - (1 - signal).sqrt() * eps) / signal.sqrt()
        return weight * (eps if predict == "eps" else x0)

    objective = Objective(predict, "fixed_small")
    final = ddim(net, pictures(), FULL, objective=objective, respacing="ddim50").x
    assert not final.requires_grad
    expected = ddim(gaussian_net, pictures(), FULL, objective=FIXED, respacing="ddim50").x
    torch.testing.assert_close(final, expected)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_the_settings_run_as_they_are_typed(name):
    sampler = instantiate(OmegaConf.load(CONF / f"{name}.yaml"), _convert_="all")
    keys = {} if name == "ddim_invert" else {"noise": torch.Generator().manual_seed(0)}
    final = sampler(gaussian_net, pictures(), FULL, objective=FIXED, **keys).x
    assert final.shape == (4, 3, 2, 2)
    assert final.isfinite().all()


@pytest.mark.parametrize(
    ("name", "keys", "words"),
    [
        ("ddpm", {"start": 1000}, "levels -1 to 999"),
        ("ddpm", {"respacing": "ddim25", "start": 980}, "respaced steps, not timesteps"),
        ("ddpm", {"start": 5, "stop": 9}, "goes down"),
        ("ddpm", {"start": 9, "stop": 5, "record": [4, 7]}, "never passes level 4"),
        ("ddim", {"stop": -2}, "levels -1 to 999"),
        ("ddim_invert", {"start": -1}, "levels 0 to 1000"),
        ("ddim_invert", {"start": 9, "stop": 5}, "goes up"),
        ("ddim_invert", {"record": [1000]}, "never passes level 1000"),
    ],
)
def test_levels_that_cannot_be_are_refused(name, keys, words):
    with pytest.raises(UserError, match=words):
        SAMPLERS[name](gaussian_net, pictures(), FULL, objective=FIXED, **keys)


@pytest.mark.parametrize(
    ("keys", "words"), [({"eta": 1.5}, "between 0"), ({"eta": 0.5}, "give a noise")]
)
def test_an_eta_that_cannot_be_is_refused(keys, words):
    with pytest.raises(UserError, match=words):
        ddim(gaussian_net, pictures(), FULL, objective=FIXED, **keys)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_tables_follow_the_pictures_to_their_device(name):
    # the meta device computes nothing, but refuses to meet a tensor of another device
    x = torch.zeros(4, 3, 2, 2, device="meta")
    final = SAMPLERS[name](lambda x, t: x + t[0], x, FULL, objective=FIXED, respacing="5").x
    assert final.device.type == "meta"
    t = torch.zeros(4, dtype=torch.int64, device="meta")
    losses = training_losses(Objective(), FULL, torch.cat([x, x], dim=1), x, x, t, x)
    assert losses.loss.device.type == "meta"
    assert FULL.to("meta").betas.device.type == "meta"
