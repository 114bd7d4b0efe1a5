"""Compiled for training, the U-Nets learn what the eager ones learn: every layer, the same way."""

import copy
import shutil
from functools import partial

import pytest
import torch

from diffdict.backbones.base import Backbone
from diffdict.backbones.ddae_unet import DdaeUnet
from diffdict.backbones.guided_unet import GuidedUNet
from tests.processes import in_processes


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("updown", [False, True])
def test_compiled_gradients_are_the_eager_ones(updown):
    """In a process of its own: a compiler stays with its threads, and sets the recursion limit."""
    (alike,) = in_processes(partial(likeness, updown))
    check_likeness(alike)


def likeness(updown: bool) -> dict[str, float]:
    """The cosine of compiled and eager gradients, of each block."""
    torch.manual_seed(0)
    flags = {"use_scale_shift_norm": True, "resblock_updown": updown, "num_head_channels": 32}
    net = GuidedUNet(32, 32, 1, "1,2", "8", **flags).to(memory_format=torch.channels_last)
    for parameter in net.parameters():  # zero-initialised layers too
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return compare_gradients(net, torch.randn(2, 3, 32, 32), torch.tensor([100, 700]))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_gradients_of_ddae_are_the_eager_ones():
    (alike,) = in_processes(ddae_likeness)
    check_likeness(alike)


def ddae_likeness() -> dict[str, float]:
    """The same of a DDAE network along noise levels."""
    torch.manual_seed(0)
    net = DdaeUnet(16, 32, [2, 2], [False, True], n_blocks=1, dropout=0.0, framework="edm")
    net = net.to(memory_format=torch.channels_last)
    return compare_gradients(net, torch.randn(2, 3, 16, 16), torch.tensor([0.1, 2.0]))


def check_likeness(alike: dict[str, float]) -> None:
    """Every block learns what it learns eagerly, up to bf16."""
    assert alike
    assert {block: cosine for block, cosine in alike.items() if cosine <= 0.98} == {}


def compare_gradients(net: Backbone, x: torch.Tensor, t: torch.Tensor) -> dict[str, float]:
    """The cosine of eager and compiled gradients, block by block."""
    gradients = []
    for compiled in (False, True):
        ours = copy.deepcopy(net)
        if compiled:
            ours.compile()
        with torch.autocast("cpu", torch.bfloat16):
            ours(x, t).float().square().mean().backward()
        gradients.append(by_block(ours))
    cosine = torch.nn.functional.cosine_similarity
    return {
        block: float(cosine(x, gradients[1][block], dim=0)) for block, x in gradients[0].items()
    }


def by_block(net: Backbone) -> dict[str, torch.Tensor]:
    """The gradients of each block in one vector: single biases before a norm are but rounding."""
    blocks: dict[str, list[torch.Tensor]] = {}
    for name, parameter in net.named_parameters():
        blocks.setdefault(".".join(name.split(".")[:2]), []).append(parameter.grad.flatten())
    return {block: torch.cat(parts) for block, parts in blocks.items()}
