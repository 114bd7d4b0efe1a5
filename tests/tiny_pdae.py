"""A PDAE of milliseconds, every weight drawn, and its file as the original's trainer writes it."""

from pathlib import Path

import torch

from diffdict.backbones.code_encoder import CodeEncoder
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.pdae import Pdae

FLAGS = {
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "8",
    "num_heads": 2,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
}
STAGES = {"number": 4, "stages": [500, 1000], "dims": [2, 6]}  # of its eight entries


def tiny_pdae(segments=None) -> Pdae:
    """Of 16 pixels and 8 entries; no layer answers with zeros."""
    torch.manual_seed(0)
    pdae = Pdae(GuidedUNet(16, **FLAGS), CodeEncoder(16, 8, [32, 64]), 8, segments=segments)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in pdae.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) / 10
    return pdae.requires_grad_(False).eval()


def released_file(path: Path) -> str:
    """The same network under the original's names."""
    pdae = tiny_pdae()
    decoder = {**pdae.denoiser.state_dict(), **pdae.shift.state_dict()}
    parts = {"ema_encoder": pdae.encoder.state_dict(), "ema_decoder": decoder}
    torch.save({"step": 1000, **parts}, path)
    return str(path)
