"""EDM's levels and preconditioning: the laws that they were chosen for (Karras et al. 2022)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffdict.diffusion.edm import Levels, loss_weight, preconditioning
from diffdict.diffusion.process import Process
from diffdict.diffusion.schedules import make_schedule
from diffdict.errors import UserError

SIGMAS = st.floats(1e-3, 1e3)


@given(SIGMAS, st.floats(0.05, 5))
def test_inputs_and_targets_have_variance_one_and_errors_weigh_the_same(sigma, data):
    level = torch.tensor([sigma], dtype=torch.float64)
    skip, out, inside, noise = preconditioning(level, data)
    total = sigma**2 + data**2
    torch.testing.assert_close(inside**2 * total, torch.ones_like(level))
    target = ((1 - skip) ** 2 * data**2 + skip**2 * sigma**2) / out**2  # of (x0 - skip · x) / out
    torch.testing.assert_close(target, torch.ones_like(level))
    torch.testing.assert_close(loss_weight(level, data) * out**2, torch.ones_like(level))
    assert noise.item() == pytest.approx(math.log(sigma) / 4)


@pytest.mark.parametrize("rho", [1, 3, 7.0])
def test_levels_rise_evenly_in_their_roots(rho):
    levels = Levels(7, 0.01, 50, rho)
    roots = levels.noise_levels ** (1 / rho)
    torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(6))
    assert levels.noise_levels[0].item() == pytest.approx(0.01)
    assert levels.noise_levels[-1].item() == pytest.approx(50)
    assert levels.timesteps.tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_the_published_levels():
    known = {1: 0.0020, 2: 0.0075, 3: 0.0229, 4: 0.0599, 5: 0.1395, 6: 0.2964, 7: 0.5853}
    known |= {8: 1.088, 9: 1.923, 12: 8.40, 18: 80}
    levels = Levels().noise_levels
    for timestep, sigma in known.items():
        assert levels[timestep - 1].item() == pytest.approx(sigma, rel=6e-3)


def test_a_picture_at_a_level_is_the_picture_and_its_noise():
    levels, images = Levels(), torch.rand(2, 3, 4, 4)
    noise, t = torch.randn(2, 3, 4, 4), torch.tensor([0, 17])
    sigma = levels.noise_levels[t].float()
    expected = images + sigma[:, None, None, None] * noise
    torch.testing.assert_close(levels.noised(images, t, noise), expected)
    torch.testing.assert_close(levels.noised(images, sigma, noise), expected)
    torch.testing.assert_close(levels.start(noise), 80 * noise)


def test_both_kinds_of_process_keep_the_contract():
    chain, noise = make_schedule(), torch.randn(2, 3, 4, 4)
    for process in (chain, Levels()):
        assert isinstance(process, Process)
        assert len(process.timesteps) == len(process.noise_levels) == process.steps
        assert (process.noise_levels.diff() > 0).all()
    assert chain.start(noise) is noise


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 1}, "2 steps or more, got 1"),
        ({"sigma_min": 0}, "got 0 and 80"),
        ({"sigma_min": 81}, "got 81 and 80"),
        ({"sigma_max": math.inf}, "got 0.002 and inf"),
        ({"rho": -1}, "rho must be positive, got -1"),
        ({"sigma_data": 0}, "sigma_data must be positive, got 0"),
    ],
)
def test_levels_that_cannot_be(settings, said):
    with pytest.raises(UserError, match=said):
        Levels(**settings)
