"""Samples by backbone=hub against those of diffusers' own pipelines, from the same noise."""

from functools import partial

import pytest
import torch

from diffdict.backbones.hub import Hub
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.pipeline import pipeline
from diffdict.diffusion.samplers import ddim, length
from diffdict.errors import UserError
from tests.tiny_pipelines import (
    FACTOR,
    FAMILIES,
    SIDE,
    latent_shape,
    pipeline_of,
    save_pipeline,
    told,
    words,
)

STEPS, LATENT = 4, SIDE // FACTOR


def latents_drawn(family, folder, noise, guidance) -> torch.Tensor:
    """The pipeline's own, before they are decoded."""
    own, text = pipeline_of(family, folder), words(family)
    if family == "dit":
        return dit_drawn(own, noise)
    if guidance == 1:
        text = {key: x for key, x in text.items() if not key.startswith("negative")}
    if family == "pixart":
        text |= {"use_resolution_binning": False, "negative_prompt": None}
    shape = noise.shape
    if family in ("flux", "qwen"):
        noise = own._pack_latents(noise, 1, 4, LATENT, LATENT)
        text["true_cfg_scale"] = guidance
    else:
        text["guidance_scale"] = guidance
    drawn = own(
        **text,
        latents=noise,
        height=SIDE,
        width=SIDE,
        num_inference_steps=STEPS,
        output_type="latent",
    ).images
    if family == "flux2":  # the latents as they go into its autoencoder, made places again
        mean, variance = own.vae.bn.running_mean, own.vae.bn.running_var
        deviation = (variance + own.vae.config.batch_norm_eps).sqrt()
        drawn = (own._patchify_latents(drawn) - mean[:, None, None]) / deviation[:, None, None]
        assert drawn.shape == shape
    if family in ("flux", "qwen"):
        drawn = own._unpack_latents(drawn, SIDE, SIDE, FACTOR).reshape(shape)
    return drawn


def dit_drawn(own, noise) -> torch.Tensor:
    """DiT's pipeline takes no latents: its loop for class 7, from these."""
    own.scheduler.set_timesteps(STEPS)
    x = noise
    for t in own.scheduler.timesteps:
        answer = own.transformer(x, timestep=t[None], class_labels=torch.tensor([7])).sample
        x = own.scheduler.step(answer[:, :4], t, x).prev_sample
    return x


@pytest.mark.parametrize(
    ("family", "guidance"),
    [(family, 1.0) for family in FAMILIES]
    + [(family, 3.0) for family in FAMILIES if family != "dit"],
)
def test_a_sample_equals_the_pipelines(family, guidance, tmp_path):
    folder = save_pipeline(family, tmp_path / family)
    net = Hub(str(folder), SIDE, guidance=guidance, **told(family, folder)).eval()
    noise = torch.randn(1, *latent_shape(family), generator=torch.Generator().manual_seed(5))
    given = torch.tensor([7]) if family == "dit" else None
    with torch.no_grad():
        theirs = latents_drawn(family, folder, noise, guidance)
        ours = pipeline(
            lambda x, t: net(x, t, given),
            net.process.start(noise),
            net.process,
            objective=Objective(),
            steps=STEPS,
        ).x
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        assert net.pictures(ours).shape == (1, 3, SIDE, SIDE)


def test_classes_are_guided_from_the_null_class(tmp_path):
    folder = save_pipeline("dit", tmp_path / "dit")
    plain, far = (Hub(str(folder), SIDE, guidance=g).eval() for g in (1.0, 4.0))
    x, t = torch.randn(2, 4, LATENT, LATENT), torch.tensor([100, 900])
    with torch.no_grad():
        own, null = plain(x, t, torch.tensor([7, 8])), plain(x, t)
        guided = far(x, t, torch.tensor([7, 8]))
    torch.testing.assert_close(guided[:, :4], null[:, :4] + 4 * (own - null)[:, :4])
    assert torch.equal(guided[:, 4:], own[:, 4:])


def test_edits_reach_the_half_that_was_named(tmp_path):
    folder = save_pipeline("sd", tmp_path / "sd")
    x, t = torch.randn(1, 4, LATENT, LATENT), torch.tensor([400])
    edits = {"mid_block": lambda h, at: h + 1}
    net = Hub(str(folder), SIDE, guidance=3.0, **told("sd", folder))

    def answer(guidance: float, half: str, edits=None) -> torch.Tensor:
        net.guidance, net.edited = guidance, half
        return net(x, t, edits=edits)

    with torch.no_grad():
        own, own_edited = answer(1.0, "both"), answer(1.0, "both", edits)
        none, none_edited = answer(0.0, "both"), answer(0.0, "both", edits)
        for half, expected in (
            ("prompt", none + 3 * (own_edited - none)),
            ("negative", none_edited + 3 * (own - none_edited)),
            ("both", none_edited + 3 * (own_edited - none_edited)),
        ):
            torch.testing.assert_close(answer(3.0, half, edits), expected, atol=1e-5, rtol=1e-5)


def test_a_sampler_that_does_not_fit_is_refused(tmp_path):
    net = Hub(str(save_pipeline("sd3", tmp_path)), SIDE, **told("sd3", tmp_path))
    assert length(partial(pipeline, steps=7), net.process) == 7
    with pytest.raises(UserError, match="straight lines to noise: sampler=pipeline"):
        length(partial(ddim, respacing="5"), net.process)
