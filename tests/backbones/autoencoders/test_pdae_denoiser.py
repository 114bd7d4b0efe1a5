"""A PDAE as samplers ask for it: golden loops, masks, steps without a code, and both rules."""

import re
from functools import partial

import pytest
import torch

from diffdict.backbones.autoencoders.pdae_denoiser import PdaeDenoiser, drawing_network
from diffdict.backbones.denoiser import Given
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim, ddpm, heun
from diffdict.diffusion.schedules import respace
from diffdict.diffusion.segments import CodeSegments
from diffdict.diffusion.shift import posterior_eps
from diffdict.errors import UserError
from tests.backbones.test_diti_golden import SHAPE, filled
from tests.inputs import image, normal
from tests.tiny_pdae import STAGES, tiny_pdae


@torch.no_grad()
def test_both_published_loops(golden):
    case = golden("diti_small")
    pdae = filled(case)
    codes, x_T = pdae.encoder(image(9001, SHAPE)), normal(9003, SHAPE)
    for name, respacing, parts in (
        ("ddim.shift_sample_loop", "linspace5", None),
        ("guided_ddim.masked.reverse", "ddim5", CodeSegments(64, 8)),
    ):
        pdae.segments = parts
        sampler = partial(ddim, respacing=respacing)
        drawing = drawing_network(pdae, sampler, Objective(predict="v"), "drawn")
        end = {} if drawing.stop is None else {"stop": drawing.stop}
        told = Given(vector=codes)
        sample = sampler(
            lambda x, t, drawing=drawing, told=told: drawing.net(x, t, told),
            x_T,
            drawing.net.process,
            objective=drawing.objective,
            **end,
        ).x
        case.check(name, sample)


@torch.no_grad()
def test_a_code_is_opened_as_in_training_unless_asked_otherwise():
    net = PdaeDenoiser(tiny_pdae(STAGES))
    x, codes = normal(1, (2, 3, 16, 16)), normal(2, (2, 8))
    t = torch.tensor([10, 10])  # the first of four segments: one entry of eight
    other = codes.clone()
    other[:, 1:] += 1
    told = [net(x, t, Given(vector=z)) for z in (codes, other)]
    assert torch.equal(*told)
    whole = PdaeDenoiser(net.pdae, masked=False)
    assert not torch.equal(*(whole(x, t, Given(vector=z)) for z in (codes, other)))


@torch.no_grad()
def test_without_a_vector_the_shift_half_is_not_computed():
    net = PdaeDenoiser(tiny_pdae())
    called = []
    net.pdae.shift.register_forward_hook(lambda *_: called.append(1))
    x, t = normal(1, (2, 3, 16, 16)), torch.tensor([10, 900])
    assert torch.equal(net(x, t), net.pdae.denoiser(x, t))
    assert not called
    net(x, t, Given(vector=normal(2, (2, 8))))
    assert called


@torch.no_grad()
def test_a_respaced_ancestral_chain_has_coefficients_of_its_own():
    pdae = tiny_pdae()
    net = drawing_network(pdae, partial(ddpm, respacing="10"), Objective(), "drawn").net
    chain = respace(pdae.denoiser.process, "10")
    x, codes = normal(1, (2, 3, 16, 16)), normal(2, (2, 8))
    place = torch.tensor([4, 9])
    t = chain.timesteps[place]
    eps, gradient = pdae.denoise(x, t, codes)
    assert torch.equal(net(x, t, Given(vector=codes)), posterior_eps(chain, eps, gradient, place))
    whole = posterior_eps(pdae.denoiser.process, eps, gradient, t)
    assert not torch.allclose(net(x, t, Given(vector=codes)), whole)


def test_samplers_whose_steps_no_code_knows():
    with pytest.raises(UserError, match=re.escape("not by heun: sampler=ddim")):
        drawing_network(tiny_pdae(), partial(heun), Objective(), "drawn")
