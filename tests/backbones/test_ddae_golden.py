"""Every output of DDAE's golden cases: both networks, both frameworks, their samplers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffdict.backbones.ddae_unet import DdaeUnet
from diffdict.diffusion.edm import Levels, loss_weight, preconditioning
from diffdict.diffusion.objectives import Objective, training_losses
from diffdict.diffusion.samplers import ddae_ddim, ddpm, heun, late_chain

EPS = Objective(variance="fixed_large")
SEEDS = {"ddae_ddpm_ddpm": 7000, "ddae_ddpm_ddpmpp_small": 7100, "ddae_edm_small": 7200}
TIMES = [0, 1, 2, 3, 11, 101, 201, 401, 500, 801, 999, 1000]  # of the tables that are stored
CHAINS = ["ddae_ddpm_ddpm", "ddae_ddpm_ddpmpp_small"]


def image(seed, shape):
    pixels = np.random.default_rng(seed).random(shape, dtype=np.float32) * 2 - 1
    return torch.from_numpy(pixels)


def unit(seed, shape):
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


def normal(seed, shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def built(config, **changes):
    """The network of a case, its flags as they stand in the original's config."""
    flags = dict(config["network"])
    flags["image_size"] = flags.pop("image_shape")[1]
    diffusion = {
        key: value
        for key, value in config["diffusion"].items()
        if key in ("n_T", "betas", "sigma_data", "sigma_min", "sigma_max", "rho")
    }
    framework = "edm" if "sigma_data" in diffusion else "ddpm"
    return DdaeUnet(**flags, **diffusion, framework=framework, **changes)


def network_outputs(net, facts, seed):
    """The bare network: its answer, its time embedding, the map of every block."""
    batch = 4 if net.framework == "edm" else 2
    seen, numbers = {}, iter(net.shapes)
    hooks = [net.time_emb.register_forward_hook(lambda *called: seen.update(time=called[2]))]
    for layer in net.up:
        if hasattr(layer, "res"):
            number = next(numbers)
            keep = lambda *called, number=number: seen.update({number: called[2]})  # noqa: E731
            hooks.append(layer.register_forward_hook(keep))
    time = torch.tensor(facts["inputs"]["t_network"])
    yield "unet.final", net.bare(image(seed + 1, (batch, 3, 32, 32)), time)
    for hook in hooks:
        hook.remove()
    yield "unet.time_embedding", seen.pop("time")
    yield from ((f"unet.activation.out_{number}", h) for number, h in seen.items())


def features(net, x01, noise, t):
    """The pooled maps of pictures at their own timesteps, which one call of the house has not."""
    each = [
        net.features(picture[None] * 2 - 1, int(own), noise=its[None])
        for picture, own, its in zip(x01, t, noise, strict=True)
    ]
    return {block: torch.cat([maps[block] for maps in each]).mean((2, 3)) for block in net.shapes}


def table_outputs(name, betas, alphas_cumprod):
    """The original's tables of a chain, whose index 0 stands before the first timestep."""
    betas, alphas_cumprod = betas[TIMES], alphas_cumprod[TIMES]
    yield f"schedule.{name}.alphabar_t", alphas_cumprod
    yield f"schedule.{name}.sqrtab", alphas_cumprod.sqrt()
    yield f"schedule.{name}.sqrtmab", (1 - alphas_cumprod).sqrt()
    yield f"schedule.{name}.oneover_sqrta", 1 / (1 - betas).sqrt()
    yield f"schedule.{name}.sqrt_beta_t", betas.sqrt()
    yield f"schedule.{name}.ma_over_sqrtmab", (betas / (1 - alphas_cumprod).sqrt())[1:]


def chain_outputs(net, facts, seed):
    """The original's DDPM: noising, loss, features, and both samplers."""
    shape = (2, 3, 32, 32)
    x01, noise, t = unit(seed + 3, shape), normal(seed + 2, shape), torch.tensor([1, 11])
    process = net.process
    before = torch.zeros(1, dtype=torch.float64)
    alphas_cumprod = torch.cat([before + 1, process.alphas_cumprod])
    yield from table_outputs("DDPM", torch.cat([before, process.betas]), alphas_cumprod)
    late = late_chain(process, 1000)
    yield from table_outputs("DDIM", late.betas, late.alphas_cumprod)
    x_t = process.noised(x01 * 2 - 1, t - 1, noise)
    yield "perturb.x_noised", x_t
    losses = training_losses(EPS, process, net(x_t, t), x01 * 2 - 1, x_t, t - 1, noise)
    yield "loss", losses.loss.mean()[None]
    pooled = features(net, x01, noise, t)
    yield from ((f"feature.out_{block}", rows) for block, rows in pooled.items())
    at_11 = net.features(x01 * 2 - 1, 11, [6], noise)[6].mean((2, 3))
    yield "feature_normed.out_6.t11", F.normalize(at_11)
    for eta in (0.0, 1.0):
        x = ddae_ddim(
            net,
            normal(seed + 4, shape),
            process,
            objective=EPS,
            noise=lambda step: normal(seed + 21 + 4 - step, shape),
            steps=5,
            eta=eta,
        ).x
        yield f"ddim5.eta{eta}", (x + 1) / 2


def short_chain_outputs(net, seed):
    """The ancestral sampler on a chain of four."""
    shape = (2, 3, 32, 32)
    x = ddpm(
        net,
        normal(seed + 4, shape),
        net.process,
        objective=EPS,
        noise=lambda step: normal(seed + 21 + 3 - step, shape),
    ).x
    yield "ddpm_sample.n_T4", (x + 1) / 2


def edm_outputs(net, facts, seed):
    """The original's EDM: levels, preconditioning, D, loss, features and Heun's sampler."""
    shape = (4, 3, 32, 32)
    x01, noise = unit(seed + 3, shape), normal(seed + 2, shape)
    x0 = x01 * 2 - 1
    for steps in (4, 18):
        sigmas = Levels(steps).noise_levels.flip(0)
        yield f"sigma_steps.{steps}", torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])
    sigma = torch.tensor([0.002, 0.05, 0.5, 1, 5, 80])
    yield "precond.c_skip_out_in_noise", torch.stack(preconditioning(sigma), 1)
    sigma = torch.tensor(facts["inputs"]["EDM D_x sigma"])
    yield "D_x", net(x0 + sigma[:, None, None, None] * noise, sigma)
    sigma = (normal(seed + 5, (4, 1, 1, 1)) * 1.2 - 1.2).exp()
    error = net(x0 + sigma * noise, sigma.flatten()) - x0
    yield "loss", (loss_weight(sigma) * error**2).mean()[None]
    for block, maps in net.features(x0, 4, noise=noise).items():
        yield f"feature.t4.out_{block}", maps.mean((2, 3))
    seventh = net.features(x0, 4, [7], noise)[7].mean((2, 3))
    yield "feature_normed.out_7", F.normalize(seventh)
    yield "feature.t3.out_7", net.features(x0, 3, [7], noise)[7].mean((2, 3))
    t = torch.tensor([1, 4, 9, 18])
    yield "perturb.t_vector.sigma", net.process.noise_levels[t - 1]
    yield "perturb.t_vector.x_noised", net.process.noised(x0, t - 1, noise)
    for eta in (0.0, 1.0):
        x = heun(
            net,
            net.process.start(normal(seed + 4, shape)),
            net.process,
            noise=lambda step: normal(seed + 21 + 3 - step, shape),
            steps=4,
            eta=eta,
        ).x
        yield f"edm_heun4.eta{eta}", (x + 1) / 2


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
@pytest.mark.parametrize("name", CHAINS)
def test_every_output_of_a_ddpm_case(golden, name):
    case = golden(name)
    config, seed = case.facts["config"], SEEDS[name]
    net = case.fill(built(config))
    answers = dict(network_outputs(net, case.facts, seed))
    answers |= dict(chain_outputs(net, case.facts, seed))
    diffusion = config["diffusion"] | {"n_T": 4}
    short = case.fill(built(config | {"diffusion": diffusion}))
    answers |= dict(short_chain_outputs(short, seed))
    check_all(case, answers)


@torch.no_grad()
def test_every_output_of_the_edm_case(golden):
    case = golden("ddae_edm_small")
    net, seed = case.fill(built(case.facts["config"])), SEEDS["ddae_edm_small"]
    answers = dict(network_outputs(net, case.facts, seed))
    check_all(case, answers | dict(edm_outputs(net, case.facts, seed)))
