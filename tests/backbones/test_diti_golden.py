"""Every output of PDAE's and DiTi's golden networks: both halves, losses, loops, interpolation."""

import torch
from torch import nn

from diffdict.backbones.code_encoder import CodeEncoder
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.pdae import Pdae
from diffdict.diffusion.chains.interpolation import exchange_parts, move, slerp
from diffdict.diffusion.objectives import Objective, flat_mean
from diffdict.diffusion.samplers import ddim, ddim_invert
from diffdict.diffusion.schedules import make_schedule, respace, x0_from_eps
from diffdict.diffusion.segments import CodeSegments
from diffdict.diffusion.shift import (
    gap_losses,
    gap_weight,
    ode_eps,
    posterior_eps,
    posterior_gap,
    shift_coefficient,
)
from tests.conftest import ruled_weight
from tests.inputs import image, normal, unit

EPS = Objective(variance="fixed_small")
FULL = make_schedule("linear", 1000)
SHAPE = (4, 3, 64, 64)
PARTS = CodeSegments(64, 8)


def filled(case):
    """Both halves of a case, which the original keeps as one network, and the encoder."""
    config = case.facts["config"]["decoder"]
    denoiser = GuidedUNet(
        64,
        config["base_channel"],
        config["num_residual_blocks_of_a_block"],
        config["channel_multiplier"],
        [64 // factor for factor in config["attention_resolutions"]],
        config["num_heads"],
        config["head_channel"],
        resblock_updown=True,
        use_scale_shift_norm=True,
        use_new_attention_order=config["use_new_attention_order"],
        learn_sigma=config.get("learn_sigma", False),
        dropout=config["dropout"],
    )
    code = config["latent_dim"]
    pdae = Pdae(denoiser, CodeEncoder(64, code), code)
    decoder = nn.Module()
    for name, child in (*pdae.denoiser.named_children(), *pdae.shift.named_children()):
        decoder.add_module(name, child)
    case.fill(decoder)
    encoder = pdae.encoder.state_dict()
    assert {k: list(v.shape) for k, v in encoder.items()} == {
        key: shape for key, shape, _ in case.facts["encoder_state_dict"]
    }
    pdae.encoder.load_state_dict({k: ruled_weight(k, tuple(v.shape)) for k, v in encoder.items()})
    return pdae.eval()


def guided(pdae, codes, parts=None, stop=0):
    """The network that ddim asks: eps with the code's gradient, none below a timestep."""

    def net(x, t):
        opened = codes * parts.prefix(t) if parts else codes
        eps, gradient = pdae.denoise(x, t, opened if t[0] >= stop else None)
        return eps if gradient is None else ode_eps(FULL, eps, gradient, t)

    return net


def table_outputs(case):
    """The original's tables of the chain."""
    at = case.facts["schedule_indices"]
    alphas = 1 - FULL.betas
    tables = {
        "betas": FULL.betas,
        "alphas_cumprod": FULL.alphas_cumprod,
        "alphas_cumprod_prev": FULL.alphas_cumprod_prev,
        "shift_coef": shift_coefficient(FULL),
        "weight": gap_weight(FULL),
        "posterior_log_variance_clipped": FULL.posterior_log_variance_clipped,
        "x_0_posterior_mean_x_0_coef": FULL.posterior_mean_coef1,
        "x_0_posterior_mean_x_t_coef": FULL.posterior_mean_coef2,
        "noise_posterior_mean_x_t_coef": (1 / alphas).sqrt(),
        "noise_posterior_mean_noise_coef": FULL.betas
        / (alphas.sqrt() * FULL.sqrt_one_minus_alphas_cumprod),
    }
    yield from ((f"schedule.{name}", table[at]) for name, table in tables.items())
    yield "masks.end_dim_of_each_segment", PARTS.ends
    yield "masks.t_to_idx", PARTS.of(torch.arange(1000))
    chain = respace(FULL, "linspace5")
    yield "ddim.new_betas", chain.betas
    yield "ddim.timestep_map", chain.timesteps
    yield "ddim100.timestep_map", respace(FULL, "linspace100").timesteps


def network_outputs(pdae, x_t, t, z):
    """Both halves, and the maps inside them."""
    seen = {}
    hooks = [
        module.register_forward_hook(lambda *called, name=name: seen.update({name: called[2]}))
        for name, module in {
            "middle_block": pdae.denoiser.middle_block,
            "shift_middle_block": pdae.shift.shift_middle_block,
            "output_blocks.0": pdae.denoiser.output_blocks[0],
            "shift_output_blocks.0": pdae.shift.shift_output_blocks[0],
            "shift_output_blocks.last": pdae.shift.shift_output_blocks[-1],
        }.items()
    ]
    eps, gradient = pdae.denoise(x_t, t, z)
    for hook in hooks:
        hook.remove()
    yield from ((f"decoder.{name}", h) for name, h in seen.items())
    yield "decoder.eps", eps
    yield "decoder.gradient", gradient
    yield "decoder.gradient_masked_z", pdae.denoise(x_t, t, z * PARTS.prefix(t)).gradient
    yield "unet.eps", pdae.denoiser(x_t, t)


def loss_outputs(pdae, x_t, t, z, noise):
    """The published losses: both modes have one value, dual twice of it."""
    eps, gradient = pdae.denoise(x_t, t, z)
    yield "loss.pdae", gap_losses(FULL, noise, eps, gradient, t).mean()[None]
    yield "loss.regular_ddpm", flat_mean((noise - eps) ** 2).mean()[None]
    for mode in ("base", "stop_grad", "dual"):
        eps, gradient = pdae.denoise(x_t, t, PARTS.opened(z, t, mode))
        losses = gap_losses(FULL, noise, eps, gradient, t) * (2 if mode == "dual" else 1)
        yield f"loss.diti_{mode}.mean", losses.mean()[None]
        if mode != "stop_grad":
            yield f"loss.diti_{mode}.per_sample", losses
        if mode == "base":
            yield "loss.diti_base_no_table.mean", losses.mean()[None]


def step_outputs(pdae, x0, x_T, z):
    """One step each way at index 2 of the chain, with and without the code."""
    for name, net in (("", pdae.denoiser), ("shift_", guided(pdae, z))):
        going = {"objective": EPS, "respacing": "linspace5", "clip_denoised": True, "start": 2}
        yield f"ddim.step.{name}sample_at_2", ddim(net, x_T, FULL, stop=1, **going).x
        yield f"ddim.step.{name}encode_at_2", ddim_invert(net, x0, FULL, stop=3, **going).x


def loop_outputs(pdae, x0, x_T, z):
    """Whole chains by the house's samplers."""
    line = {"objective": EPS, "respacing": "linspace5", "clip_denoised": True}
    net = guided(pdae, z)
    yield "ddim.regular_sample", ddim(pdae.denoiser, x_T, FULL, stop=0, **line).x
    inverted = ddim_invert(net, x0, FULL, **line).x
    yield "ddim.shift_encode_loop", inverted
    yield "ddim.shift_sample_loop", ddim(net, x_T, FULL, stop=0, **line).x
    late = guided(pdae, z, stop=int(respace(FULL, "linspace5").timesteps[int(0.3 * 5) + 1]))
    yield "ddim.shift_sample_loop.stop0.3", ddim(late, x_T, FULL, stop=0, **line).x
    yield "ddim.autoencoding", ddim(net, inverted, FULL, stop=0, **line).x
    stride = line | {"respacing": "ddim5"}
    for name, parts in (("masked", PARTS), ("unmasked", None)):
        net = guided(pdae, z, parts)
        yield f"guided_ddim.{name}.reverse", ddim(net, x_T, FULL, **stride).x
        yield f"guided_ddim.{name}.forward", ddim_invert(net, x0, FULL, stop=5, **stride).x
    masked, zero = guided(pdae, z, PARTS), guided(pdae, torch.zeros_like(z))
    published = lambda x, t: (masked if t[0] >= 500 else zero)(x, t)  # noqa: E731 - its mistake
    yield "guided_ddim.masked.reverse.stop0.5", ddim(published, x_T, FULL, **stride).x


def check_all(case, answers):
    """Every output of the case, all mistakes at once."""
    assert set(answers) == {output["name"] for output in case.facts["outputs"]}
    wrong = []
    for name, answer in answers.items():
        try:
            case.check(name, answer)
        except AssertionError as error:
            wrong.append(str(error))
    assert not wrong, "\n".join(wrong)


@torch.no_grad()
def test_every_output_of_the_small_case(golden):
    case = golden("diti_small")
    pdae = filled(case)
    x0, noise, x_T = image(9001, SHAPE), normal(9002, SHAPE), normal(9003, SHAPE)
    t = torch.tensor(case.facts["inputs"]["t"])
    z, x_t = pdae.encoder(x0), FULL.noised(x0, t, noise)
    answers = {"encoder.z": z, "q_sample": x_t, **dict(table_outputs(case))}
    answers |= dict(network_outputs(pdae, x_t, t, z)) | dict(loss_outputs(pdae, x_t, t, z, noise))
    answers |= dict(step_outputs(pdae, x0, x_T, z)) | dict(loop_outputs(pdae, x0, x_T, z))
    mean, std = 0.1 * normal(9005, (64,)), 1 + unit(9006, (64,))
    moved = move(z, normal(9004, (64,)), mean, std, 0.3, length=512**0.5)
    answers["manipulation"] = ddim(
        guided(pdae, moved), x_T, FULL, objective=EPS, respacing="ddim5", clip_denoised=True
    ).x
    check_all(case, answers)


@torch.no_grad()
def test_every_output_of_the_interpolation_case(golden):
    case = golden("diti_interpolation")
    pdae, config = filled(case), case.facts["config"]
    x0, noise = image(9141, (2, 3, 64, 64)), normal(9144, (2, 3, 64, 64))
    x_a, x_b = normal(9142, (1, 3, 64, 64)), normal(9143, (1, 3, 64, 64))
    z = pdae.encoder(x0)
    line = {"objective": EPS, "respacing": f"linspace{config['steps']}", "stop": 0}
    answers = {"z": z} | {f"slerp.{share}": slerp(x_a, x_b, share) for share in (0.25, 0.6)}

    def trajectory(x, t):
        """The gradients of both codes, mixed at every step."""
        eps, first = pdae.denoise(x, t, z[:1])
        second = pdae.denoise(x, t, z[1:]).gradient
        return ode_eps(FULL, eps, torch.lerp(first, second, 0.3), t)

    answers["trajectory.0.3"] = ddim(trajectory, x_a, FULL, **line).x
    answers["lerp.0.3"] = ddim(guided(pdae, z[:1].lerp(z[1:], 0.3)), x_a, FULL, **line).x
    t = torch.tensor(case.facts["inputs"]["t of one_step"])
    x_t = FULL.noised(x0, t, noise)
    bare, gradient = pdae.denoise(x_t, t, z)
    moved = posterior_eps(FULL, bare, gradient, t)
    for end, gap, eps in (("", "without", bare), ("_with_code", "with_code", moved)):
        answers[f"one_step.x0{end}"] = x0_from_eps(FULL, x_t, t, eps)
        answers[f"gap.{gap}"] = posterior_gap(FULL, x0, x_t, eps, t)
    part = slice(*config["slice"])
    answers["counterfactual.code"] = exchange_parts(z[:1], z[1:], part, 0.6)
    check_all(case, answers)
