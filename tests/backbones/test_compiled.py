"""Compiled for training, the U-Net learns what the eager one learns: every layer, the same way."""

import copy
import shutil

import pytest
import torch

from diffdict.backbones.guided_unet import GuidedUNet


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("updown", [False, True])
def test_compiled_gradients_are_the_eager_ones(updown):
    torch.manual_seed(0)
    flags = {"use_scale_shift_norm": True, "resblock_updown": updown, "num_head_channels": 32}
    net = GuidedUNet(32, 32, 1, "1,2", "8", **flags).to(memory_format=torch.channels_last)
    for parameter in net.parameters():  # zero-initialised layers too
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([100, 700])
    gradients = []
    for compiled in (False, True):
        ours = copy.deepcopy(net)
        if compiled:
            ours.compile()
        with torch.autocast("cpu", torch.bfloat16):
            ours(x, t).float().square().mean().backward()
        gradients.append(by_block(ours))
    for block, eager in gradients[0].items():
        alike = torch.nn.functional.cosine_similarity(eager, gradients[1][block], dim=0)
        assert alike > 0.98, f"{block}: {alike:.3f}"


def by_block(net: GuidedUNet) -> dict[str, torch.Tensor]:
    """The gradients of each block in one vector: single biases before a norm are but rounding."""
    blocks: dict[str, list[torch.Tensor]] = {}
    for name, parameter in net.named_parameters():
        blocks.setdefault(".".join(name.split(".")[:2]), []).append(parameter.grad.flatten())
    return {block: torch.cat(parts) for block, parts in blocks.items()}
