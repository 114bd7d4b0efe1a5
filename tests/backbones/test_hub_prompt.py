"""Prompts of backbone=hub: by the pipeline's own encoders, once, then freed; and .npz."""

import gc
import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch

from diffdict.backbones.hub import Hub
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.pipeline import pipeline
from diffdict.errors import UserError
from tests.processes import PATIENCE
from tests.tiny_pipelines import (
    FACTOR,
    FAMILIES,
    SIDE,
    TEXT,
    latent_shape,
    save_pipeline,
    save_with_encoders,
    told,
    words,
)

LATENT = SIDE // FACTOR
TEXTUAL = [family for family in FAMILIES if family != "dit"]


@pytest.mark.parametrize("family", TEXTUAL)
def test_a_guided_sample_of_a_text_equals_the_pipelines(family, tmp_path, monkeypatch):
    own = save_with_encoders(family, tmp_path / family)
    noise = torch.randn(1, *latent_shape(family), generator=torch.Generator().manual_seed(5))
    start, more = noise, {"guidance_scale": 3.0}
    guidance = 3.0
    if family == "flux":
        start, more, guidance = own._pack_latents(noise, 1, 4, LATENT, LATENT), {}, 1.0
    if family == "pixart":
        more |= {"use_resolution_binning": False, "clean_caption": False}
    if family == "qwen":
        start, more = own._pack_latents(noise, 1, 4, LATENT, LATENT), {"true_cfg_scale": 3.0}
        more |= {"negative_prompt": ""}
    own.set_progress_bar_config(disable=True)
    asked = {"height": SIDE, "width": SIDE, "num_inference_steps": 3, "output_type": "latent"}
    theirs = own(prompt="a cat", latents=start, **asked, **more).images
    if family == "flux2":  # as they go into its autoencoder: the network's are made of them again
        mean, variance = own.vae.bn.running_mean, own.vae.bn.running_var
        deviation = (variance + own.vae.config.batch_norm_eps).sqrt()
        theirs = (own._patchify_latents(theirs) - mean[:, None, None]) / deviation[:, None, None]
    if family == "qwen":
        theirs = own._unpack_latents(theirs, SIDE, SIDE, FACTOR)[:, :, 0]
    if family == "flux":
        theirs = own._unpack_latents(theirs, SIDE, SIDE, FACTOR)
    kept = str(tmp_path / "prompts")
    made = {"prompt": "a cat", "guidance": guidance, "prompts": kept}
    net = Hub(str(tmp_path / family), SIDE, **made).eval()
    with torch.no_grad():
        ours = pipeline(net, noise, net.process, objective=Objective(), steps=3).x
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    # the second time nothing is encoded
    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", None)
    again = Hub(str(tmp_path / family), SIDE, **made)
    assert again.sha256 == net.sha256
    assert torch.equal(again.texts.prompt.states, net.texts.prompt.states)


def test_encoders_do_not_outlive_the_encoding(tmp_path):
    save_with_encoders("sdxl", tmp_path / "sdxl")
    gc.collect()
    before = alive()
    net = Hub(str(tmp_path / "sdxl"), SIDE, prompt="a cat", prompts=str(tmp_path / "kept"))
    assert alive() == before
    other = Hub(str(tmp_path / "sdxl"), SIDE, prompt="a dog", prompts=str(tmp_path / "kept"))
    assert other.sha256 != net.sha256
    assert len(list((tmp_path / "kept").iterdir())) == 2


def alive() -> int:
    """Text encoders in memory."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    kinds = (CLIPTextModel, CLIPTextModelWithProjection)
    return sum(type(one) in kinds for one in gc.get_objects())


SCRIPT = """
import sys
sys.modules["torchvision"] = None  # whoever imports it fails
import torch
from diffdict.backbones.hub import Hub
net = Hub(sys.argv[1], 32, prompt="a cat", guidance=2.0, prompts=sys.argv[2]).eval()
with torch.no_grad():
    net.features(torch.zeros(1, 3, 32, 32), 50, ["mid_block"])
    net.pictures(net(torch.randn(1, 4, 8, 8), torch.tensor([50])))
"""


def test_torchvision_is_never_imported(tmp_path):
    save_with_encoders("sd", tmp_path / "sd")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "sd"), str(tmp_path / "kept")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def test_attention_is_what_the_cross_attention_gives_each_token(tmp_path):
    """By a processor of the test's own, which keeps the softmax that diffusers computes."""
    for family, block in (
        ("sd", "up_blocks.0.attentions.0"),
        ("pixart", "transformer_blocks.1"),
    ):
        folder = save_pipeline(family, tmp_path / family)
        net = Hub(str(folder), SIDE, taps="attention", **told(family, folder)).eval()
        shares, layer = (
            [],
            net.network.get_submodule(
                f"{block}.transformer_blocks.0.attn2" if family == "sd" else f"{block}.attn2"
            ),
        )
        plain = layer.get_attention_scores

        def keep(query, key, mask=None, plain=plain, shares=shares):
            shares.append(plain(query, key, mask))
            return shares[-1]

        images, noise = torch.rand(2, 3, SIDE, SIDE), torch.randn(1, 4, LATENT, LATENT)
        with torch.no_grad():
            maps = net.features(images, 300, [block], noise)[block]
            layer.set_processor(diffusers.models.attention_processor.AttnProcessor())
            layer.get_attention_scores = keep
            net(*net.noised(net.prepared(images), 300, noise))
        own = shares[-1].unflatten(0, (2, -1)).mean(1).mT.unflatten(2, maps.shape[2:])
        torch.testing.assert_close(maps, own, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(maps.sum(1), torch.ones_like(maps[:, 0]))
        assert tuple(maps.shape[1:]) == net.shapes[block]
        if family == "pixart":  # two of its five tokens are padding
            assert maps[:, 3:].abs().max() < 1e-6
    with pytest.raises(UserError, match="DiTTransformer2DModel has no layers of cross-attention"):
        Hub(str(save_pipeline("dit", tmp_path / "dit")), SIDE, taps="attention")


def test_embeddings_that_do_not_fit_are_refused(tmp_path):
    folder, path = save_pipeline("sdxl", tmp_path / "sdxl"), tmp_path / "other.npz"
    plain = {key: x.numpy() for key, x in words("sdxl").items()}
    for change, said in (
        ({"prompt_embeds": np.zeros((1, 5, TEXT + 1))}, f"width {TEXT}, .* has {TEXT + 1}"),
        ({"prompt_embeds": np.zeros((3, 5, TEXT))}, "holds 3 texts in prompt_embeds"),
        ({"pooled_prompt_embeds": None}, "pooled_prompt_embeds of width 12, .* has none"),
        ({"prompt_embeds": None}, "holds no prompt_embeds"),
    ):
        arrays = {key: x for key, x in (plain | change).items() if x is not None}
        np.savez(path, **arrays)
        with pytest.raises(UserError, match=said) as wrong:
            Hub(str(folder), SIDE, prompt=str(path))
        assert "\n" not in str(wrong.value)
    np.savez(path, prompt_embeds=np.array([{}], dtype=object))  # a pickle
    with pytest.raises(UserError, match=r"no \.npz of arrays"):
        Hub(str(folder), SIDE, prompt=str(path))
    with pytest.raises(UserError, match="is told no text, got prompt=a cat"):
        Hub(str(save_pipeline("dit", tmp_path / "dit")), SIDE, prompt="a cat")


def test_a_folder_that_lacks_a_part_says_which(tmp_path, monkeypatch):
    folder = save_pipeline("sd", tmp_path / "sd")
    more = told("sd", folder)
    with pytest.raises(UserError, match=r"text encoders.*backbone\.prompt=FILE\.npz"):
        Hub(str(folder), SIDE)
    for part, said in (
        ("scheduler", "has no scheduler beside it"),
        ("vae", r"no pipeline with an autoencoder.*backbone\.vae=FOLDER"),
    ):
        (folder / part).rename(tmp_path / "away")
        with pytest.raises(UserError, match=said):
            Hub(str(folder), SIDE, **more)
        (tmp_path / "away").rename(folder / part)
    assert Hub(str(folder / "unet"), SIDE, **more).sha256 == Hub(str(folder), SIDE, **more).sha256
    with pytest.raises(UserError, match="divisible by 8, got 36"):
        Hub(str(folder), 36, **more)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="no folder here and was not fetched from the hub"):
        Hub("nobody/nothing", SIDE)
    for path in (folder / "unet").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="holds no whole UNet2DConditionModel"):
        Hub(str(folder), SIDE, **more)
