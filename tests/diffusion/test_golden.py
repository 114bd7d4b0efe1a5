"""Every output of the golden case gd_diffusion_linear, from tables to whole chains."""

import numpy as np
import pytest
import torch

from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.diffusion.objectives import Objective, interpret, training_losses
from diffdict.diffusion.samplers import ddim, ddim_invert, ddpm
from diffdict.diffusion.schedules import (
    make_schedule,
    q_posterior,
    q_sample,
    respace,
    respaced_timesteps,
)

LEARNED = Objective()
FULL = make_schedule("linear", 1000)
T = torch.tensor([0, 10, 500, 999])


def image(seed, shape):
    pixels = np.random.default_rng(seed).random(shape, dtype=np.float32) * 2 - 1
    return torch.from_numpy(pixels)


def normal(seed, shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


X0 = image(1301, (4, 3, 32, 32))
NOISE = normal(1302, (4, 3, 32, 32))
X_T = normal(1303, (2, 3, 32, 32))


def flags(config):
    """The case's flags that the network knows; the others belong to diffusion or precision."""
    names = (
        "image_size num_channels num_res_blocks num_heads num_heads_upsample num_head_channels "
        "attention_resolutions channel_mult dropout class_cond use_scale_shift_norm "
        "resblock_updown use_new_attention_order learn_sigma"
    )
    return {name: config[name] for name in names.split()}


@pytest.fixture
def net(golden):
    case = golden("gd_diffusion_linear")
    return case.fill(GuidedUNet(**flags(case.facts["config"])))


def schedule_outputs(indices):
    tables = (
        "betas alphas_cumprod alphas_cumprod_prev alphas_cumprod_next sqrt_recip_alphas_cumprod "
        "sqrt_recipm1_alphas_cumprod posterior_variance posterior_log_variance_clipped "
        "posterior_mean_coef1 posterior_mean_coef2"
    )
    yield from ((f"schedule.{name}", getattr(FULL, name)[indices]) for name in tables.split())
    for spec in ("5", "ddim5"):
        short = respace(FULL, spec)
        yield f"respace.{spec}.betas", short.betas
        yield f"respace.{spec}.alphas_cumprod", short.alphas_cumprod
        yield f"respace.{spec}.timestep_map", short.timesteps
    x_t = q_sample(FULL, X0, T, NOISE)
    posterior = q_posterior(FULL, X0, x_t, T)
    yield "q_sample", x_t
    yield "q_posterior.mean", posterior.mean
    yield "q_posterior.log_variance", posterior.log_variance.flatten()


def reading_outputs(net):
    x_t = q_sample(FULL, X0, T, NOISE)
    output = net(x_t, T)
    for clip in (True, False):
        guess = interpret(LEARNED, FULL, output, x_t, T, clip_denoised=clip)
        yield f"p_mean_variance.clip{clip}.mean", guess.mean
        yield f"p_mean_variance.clip{clip}.log_variance", guess.log_variance
        yield f"p_mean_variance.clip{clip}.pred_xstart", guess.x0
    for variance in ("fixed_large", "fixed_small"):
        guess = interpret(Objective(variance=variance), FULL, output, x_t, T)
        yield f"p_mean_variance.{variance}.log_variance", guess.log_variance[:, 0, 0, 0]


def loss_outputs(net):
    def losses(objective, schedule, t):
        x_t = q_sample(schedule, X0, t, NOISE)
        output = net(x_t, schedule.timesteps[t])
        return training_losses(objective, schedule, output, X0, x_t, t, NOISE)

    chain = "training_losses.rescaled_mse.respaced50"
    for name, objective, schedule, t in (
        ("training_losses.mse", LEARNED, FULL, T),
        ("training_losses.rescaled_mse", Objective(loss="rescaled_mse"), FULL, T),
        (chain, Objective(loss="rescaled_mse"), respace(FULL, "50"), torch.tensor([0, 7, 20, 49])),
    ):
        got = losses(objective, schedule, t)
        yield from ((f"{name}.{part}", getattr(got, part)) for part in ("mse", "vb", "loss"))
    # rescale_timesteps multiplies by 1000/T, which is 1 here
    yield f"{chain}.rescale_timesteps.loss", got.loss
    yield "training_losses.rescaled_kl.loss", losses(Objective(loss="rescaled_kl"), FULL, T).loss
    fixed = losses(Objective(variance="fixed_large"), FULL, T)
    yield "training_losses.fixed_var.loss", fixed.loss


def chain_outputs(net, spec):
    def noise(step):
        return normal(1311 + 4 - step, X_T.shape)

    keys = {"objective": LEARNED, "respacing": spec}
    for clip in (True, False):
        chain = ddpm(net, X_T, FULL, noise=noise, clip_denoised=clip, record=[3], **keys)
        yield f"p_sample_loop.{spec}.clip{clip}.final", chain.x
        if clip:
            yield f"p_sample_loop.{spec}.step0", chain.states[3]
    for eta in (0, 0.7):
        final = ddim(net, X_T, FULL, noise=noise, eta=eta, **keys).x
        yield f"ddim_sample_loop.{spec}.eta{eta}.final", final
    reverse = ddim_invert(net, X0[:2], FULL, clip_denoised=True, stop=5, record=[1, 4, 5], **keys)
    for level, x in reverse.states.items():
        yield f"ddim_reverse.{spec}.after_step{level - 1}", x


@torch.no_grad()
def test_every_output_of_the_case(golden, net):
    case = golden("gd_diffusion_linear")
    answers = dict(schedule_outputs(case.facts["schedule_indices"]))
    answers |= dict(reading_outputs(net)) | dict(loss_outputs(net))
    answers |= dict(chain_outputs(net, "5")) | dict(chain_outputs(net, "ddim5"))
    assert set(answers) == {output["name"] for output in case.facts["outputs"]}
    wrong = []
    for name, answer in answers.items():
        try:
            case.check(name, answer)
        except AssertionError as error:
            wrong.append(str(error))
    assert not wrong, "\n".join(wrong)


def test_every_respacing_of_the_case(golden):
    for spec, expected in golden("gd_diffusion_linear").facts["space_timesteps_1000"].items():
        got = respaced_timesteps(1000, spec)
        if isinstance(expected, dict):
            got = {"count": len(got), "first12": got[:12], "last6": got[-6:], "sum": sum(got)}
        assert got == expected, spec
