"""Pictures as the latents of an autoencoder that diffusers has saved (Rombach et al. 2022)."""

import hashlib
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffdict.backbones.autoencoders.latent_layouts import LAYOUTS
from diffdict.backbones.base import combined_sha256, weights_sha256
from diffdict.backbones.offload import visiting
from diffdict.errors import UserError


class LatentEncoder:
    """An autoencoder beside a network: no part of its weights, and never trained."""

    def __init__(
        self, folder: str, channels: int, posterior: str = "sample", offloaded: bool = False
    ) -> None:
        """`folder` is the autoencoder's own or a pipeline's; its latents have so many channels.

        posterior=mean takes the middle of what the autoencoder says of a picture, no draw.
        offloaded: it is on the pictures' device while it computes, else from then on.
        """
        self.posterior, self.offloaded = posterior, offloaded
        self.vae = open_autoencoder(Path(folder)).requires_grad_(False).eval()
        self.layout = LAYOUTS[type(self.vae).__name__](self.vae)
        if self.layout.channels != channels:
            raise UserError(
                f"vae={folder} has latents of {self.layout.channels} channels, the network takes "
                f"{channels}: give the autoencoder that it was trained on"
            )
        self.factor = self.layout.factor(self.vae.config)  # how much smaller latents are

    @cached_property
    def sha256(self) -> str:
        """Of its weights."""
        return weights_sha256(self.vae)

    @property
    def view_sha256(self) -> str:
        """Of its weights, and of what is taken of its posterior."""
        return combined_sha256(self.sha256, self.posterior)

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch channels _ _"]:
        """In float32, of each picture's posterior the mean or a draw, a function of the picture."""
        with self._present(images.device), torch.autocast(images.device.type, enabled=False):
            posterior = self.layout.posterior(images.float())
            if self.posterior == "mean":
                return self.layout.given(posterior.mean)
            noise = torch.stack(
                [posterior_noise(image, posterior.mean.shape[1:]) for image in images.cpu()]
            )
            return self.layout.given(posterior.mean + posterior.std * noise.to(images.device))

    @torch.no_grad()
    def decoded(
        self, latents: Float[Tensor, "batch channels _ _"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """The pictures of these latents, in float32."""
        with self._present(latents.device), torch.autocast(latents.device.type, enabled=False):
            return self.layout.decoded(latents.float())

    def _present(self, device: torch.device) -> AbstractContextManager[None]:
        if self.offloaded:
            return visiting(self.vae, device)
        self.vae.to(device)
        return nullcontext()


def posterior_noise(image: Float[Tensor, "3 height width"], shape: tuple[int, ...]) -> Tensor:
    """Normal noise that depends on nothing but the picture's bytes."""
    data = ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    digest = hashlib.sha256(data.cpu().numpy().tobytes()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(shape, generator=generator)


def open_autoencoder(folder: Path) -> nn.Module:
    """The autoencoder in the folder, or in its subfolder vae; safetensors only."""
    try:
        import diffusers
    except ImportError as error:
        raise UserError(
            "backbone.vae needs diffusers, which is not here: pip install 'diffdict[diffusers]'"
        ) from error
    folder = folder / "vae" if (folder / "vae").is_dir() else folder
    if not folder.is_dir():
        raise UserError(
            f"vae={folder} is no folder: name one that diffusers saved, such as a copy of "
            "stabilityai/sd-vae-ft-mse"
        )
    kind = next(iter(LAYOUTS))
    try:
        kind = diffusers.AutoencoderKL.load_config(folder, local_files_only=True)["_class_name"]
        if kind not in LAYOUTS:
            raise UserError(
                f"vae={folder} holds {kind}, it must be an {' or an '.join(LAYOUTS)}: choose its "
                "folder"
            )
        return getattr(diffusers, kind).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
        )
    except UserError:
        raise
    except Exception as error:  # what diffusers and safetensors say of files has many types
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"vae={folder} holds no whole {kind} ({reason}): save it there again with "
            "save_pretrained, config.json and safetensors"
        ) from error
