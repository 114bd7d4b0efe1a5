"""A checkpoint is described and verified."""

import zipfile

import pytest
import torch
from torch import nn

from diffdict import checkpoints
from diffdict.errors import UserError

TINY = {
    "image_size": 32,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2,2",
    "attention_resolutions": "16,8",
    "num_head_channels": 16,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
    "learn_sigma": True,
}


def tiny(**flags) -> nn.Module:
    from diffdict.backbones.guided_unet import GuidedUNet

    return GuidedUNet(**{**TINY, **flags})


def test_a_description_tells_kind_flags_and_origin(tmp_path):
    path, net = tmp_path / "last.ckpt", tiny()
    weights = {f"net.{key}": value for key, value in net.state_dict().items()}
    run = {"pytorch-lightning_version": "2.5.0", "epoch": 7, "global_step": 900}
    config = {"model": {"_target_": "diffdict.tasks.diffusion.Diffusion"}}
    torch.save({**run, "state_dict": weights, "config": config}, path)
    found = checkpoints.inspect(path)
    assert found.layout == "lightning"
    assert found.kind == "guided-diffusion U-Net"
    assert found.parameters == sum(each.numel() for each in net.parameters())
    assert found.dtypes == {"float32": found.tensors}
    assert found.flags["channel_mult"] == "1,2,2"
    assert (found.facts["epoch"], found.facts["global_step"]) == (7, 900)
    text = checkpoints.describe(path)
    for part in (found.sha256, "diffdict.tasks.diffusion", "900", f"{found.parameters:,} numbers"):
        assert part in text
    assert checkpoints.config_of(path)["model"]["_target_"].startswith("diffdict.tasks")
    torch.save(net.state_dict(), path)
    with pytest.raises(UserError, match="keeps no config"):
        checkpoints.config_of(path)


def test_verify_finds_a_flipped_bit_and_weights_that_are_no_numbers(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.arange(5000.0)}, path)
    assert "1 tensors are whole and finite" in checkpoints.verify(path)
    with zipfile.ZipFile(path) as pack:
        at = next(info for info in pack.infolist() if info.filename.endswith("data/0"))
    data = bytearray(path.read_bytes())
    data[at.header_offset + 10_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"damaged in .*data/0"):
        checkpoints.verify(path)
    torch.save({"w": torch.tensor([1.0, float("nan")])}, path)
    with pytest.raises(UserError, match=r"no numbers: w \(1 of 1"):
        checkpoints.verify(path)
