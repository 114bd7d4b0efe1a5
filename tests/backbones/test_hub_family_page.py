"""docs/text_to_image.md is true: its family of one file reads a network as diffusers does."""

import re
from pathlib import Path

import pytest
import torch

from diffdict.backbones.hub import Hub, families
from diffdict.backbones.hub.families.registry import known_families
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.pipeline import pipeline
from tests import tiny_pipelines
from tests.tiny_pipelines import FACTOR, SIDE, Made, pipeline_of, save_pipeline, told, words

PAGE = (Path(__file__).parents[2] / "docs/text_to_image.md").read_text()
CHROMA = Made(
    "ChromaTransformer2DModel",
    {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": tiny_pipelines.TEXT,
        "axes_dims_rope": (4, 4, 8),
        "approximator_num_channels": 16,
        "approximator_hidden_dim": 16,
        "approximator_layers": 1,
    },
    "FlowMatchEulerDiscreteScheduler",
    {"use_dynamic_shifting": True},
    "ChromaPipeline",
    mask=True,
)


@pytest.fixture
def chroma(tmp_path, monkeypatch) -> Path:
    """A tiny Chroma's folder, where the page's file lies beside the other families."""
    file, code = re.search(r"as `[\w/]+/(\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.S).groups()
    (tmp_path / file).write_text(code)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    monkeypatch.setitem(tiny_pipelines.FAMILIES, "chroma", CHROMA)
    return save_pipeline("chroma", tmp_path / "chroma")


def test_the_house_has_the_others():
    assert len(known_families()) == 8
    assert "ChromaTransformer2DModel" not in known_families()


@torch.no_grad()
def test_a_family_is_one_file(chroma):
    assert len(known_families()) == 9
    net = Hub(str(chroma), SIDE, guidance=3.0, taps="attention", **told("chroma", chroma)).eval()
    own, side = pipeline_of("chroma", chroma), SIDE // FACTOR
    noise = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(5))
    text = {key: x.float() for key, x in words("chroma").items()}
    theirs = own(
        **text,
        latents=own._pack_latents(noise, 1, 4, side, side),
        guidance_scale=3.0,
        height=SIDE,
        width=SIDE,
        num_inference_steps=3,
        output_type="latent",
    ).images
    theirs = own._unpack_latents(theirs, SIDE, SIDE, FACTOR)
    ours = pipeline(net, noise, net.process, objective=Objective(), steps=3).x
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    maps = net.features(noise, 300, None)
    assert list(maps) == ["transformer_blocks.0", "single_transformer_blocks.0"]
    for x in maps.values():  # five tokens of text
        assert x.shape == (1, 5, side // 2, side // 2)
        assert x.min() > 0
        assert x.sum(1).max() < 1
