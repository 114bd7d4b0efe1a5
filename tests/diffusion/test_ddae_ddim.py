"""DDAE's DDIM: the law of its shifted table, its last step, and what it refuses."""

import pytest
import torch

from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddae_ddim, late_chain
from diffdict.diffusion.schedules import make_schedule, respace, tables
from diffdict.errors import UserError

EPS = Objective(variance="fixed_large")
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
CHAIN = tables(BETAS, torch.arange(1, 1001))
SHAPE = (2, 3, 4, 4)


def picture():
    return torch.rand(*SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def normal(seed):
    return torch.randn(*SHAPE, generator=torch.Generator().manual_seed(seed))


def perfect(table, told=None):
    """A network that knows the one picture there is, and its noise level by the table."""

    def net(x, t):
        if told is not None:
            told.append(int(t[0]))
        abar = table[t].float().reshape(-1, 1, 1, 1)
        return (x - abar.sqrt() * picture()) / (1 - abar).sqrt()

    return net


def test_its_table_is_one_beta_late():
    chain = late_chain(CHAIN, 1000)
    betas = torch.linspace(1e-4, 0.02, 1001, dtype=torch.float64)
    torch.testing.assert_close(chain.alphas_cumprod, (1 - betas).cumprod(0))
    assert chain.alphas_cumprod[1].item() == pytest.approx(0.99978, abs=5e-6)
    assert chain.alphas_cumprod[991].item() == pytest.approx(4.79e-5, rel=2e-3)
    assert chain.timesteps[1:].tolist() == list(range(1, 1001))


@pytest.mark.parametrize(("steps", "times"), [(5, [801, 601, 401, 201, 1]), (1, [1])])
def test_the_times_that_it_tells(steps, times):
    told = []
    table = late_chain(CHAIN, 1000).alphas_cumprod
    ddae_ddim(perfect(table, told), normal(1), CHAIN, objective=EPS, steps=steps)
    assert told == times


def test_a_hundredth_of_the_noise_is_left():
    """Where pictures are one picture, any steps lead to sqrt(abar_0) x_0 + sqrt(1 - abar_0) eps."""
    table = late_chain(CHAIN, 1000).alphas_cumprod
    eps = normal(1)
    top = table[991].float()
    x = top.sqrt() * picture() + (1 - top).sqrt() * eps
    end = ddae_ddim(perfect(table), x, CHAIN, objective=EPS, clip_denoised=False).x
    expected = 0.9999**0.5 * picture() + 0.01 * eps
    torch.testing.assert_close(end, expected, atol=2e-4, rtol=0)


def test_its_last_step_adds_no_noise():
    asked = []

    def draw(step):
        asked.append(step)
        return normal(step)

    table = late_chain(CHAIN, 1000).alphas_cumprod
    keys = {"objective": EPS, "noise": draw, "eta": 1.0, "steps": 5}
    ddae_ddim(perfect(table), normal(9), CHAIN, **keys)
    assert asked == [4, 3, 2, 1]


def test_a_chain_can_be_left_and_taken_up():
    table = late_chain(CHAIN, 1000).alphas_cumprod
    keys = {"objective": EPS, "noise": normal, "eta": 0.5, "steps": 10}
    whole = ddae_ddim(perfect(table), normal(99), CHAIN, record=[4], **keys)
    upper = ddae_ddim(perfect(table), normal(99), CHAIN, stop=4, **keys).x
    assert torch.equal(upper, whole.states[4])
    assert torch.equal(ddae_ddim(perfect(table), upper, CHAIN, start=4, **keys).x, whole.x)


@pytest.mark.parametrize(
    ("schedule", "settings", "said"),
    [
        (CHAIN, {"steps": 300}, "divides 1000, got 300"),
        (CHAIN, {"steps": 0}, "divides 1000, got 0"),
        (CHAIN, {"eta": 1.1}, "sampler.eta is between 0"),
        (CHAIN, {"eta": 0.5}, "draws noise"),
        (make_schedule("cosine"), {}, "ddae_ddim goes along a linear schedule"),
        (respace(CHAIN, "100"), {"steps": 50}, "ddae_ddim goes along a linear schedule"),
    ],
)
def test_what_it_refuses(schedule, settings, said):
    with pytest.raises(UserError, match=said):
        ddae_ddim(lambda x, t: x, normal(1), schedule, **settings)
