"""How each class of diffusers' autoencoders has its latents as a network is trained on them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 2  # side of what FLUX.2's pipeline makes one place of


class LatentLayout(ABC):
    """Between what an autoencoder says of a picture and what its network is given."""

    def __init__(self, vae: nn.Module) -> None:
        self.vae, self.config = vae, vae.config

    @property
    @abstractmethod
    def channels(self) -> int:
        """Of a network's latents."""

    @staticmethod
    @abstractmethod
    def factor(config: Mapping) -> int:
        """How much smaller they are than pictures."""

    def posterior(self, images: Tensor) -> object:
        """What the autoencoder says of pictures."""
        return self.vae.encode(images).latent_dist

    @abstractmethod
    def given(self, z: Tensor) -> Tensor:
        """A draw of the posterior as the network is given it."""

    @abstractmethod
    def decoded(self, latents: Tensor) -> Tensor:
        """The pictures of what the network made."""


class ScaledLatents(LatentLayout):
    """`AutoencoderKL`: (z − shift) · scale; SD, SDXL, DiT, PixArt, SD3, FLUX.1."""

    @property
    def channels(self) -> int:
        """Its own."""
        return self.config.latent_channels

    @staticmethod
    def factor(config: Mapping) -> int:
        """Half for every level but the first."""
        return 2 ** (len(config["block_out_channels"]) - 1)

    def given(self, z: Tensor) -> Tensor:
        """Moved and scaled."""
        return (z - (self.config.shift_factor or 0.0)) * self.config.scaling_factor

    def decoded(self, latents: Tensor) -> Tensor:
        """Scaled and moved back."""
        z = latents / self.config.scaling_factor + (self.config.shift_factor or 0.0)
        return self.vae.decode(z).sample


class PatchedLatents(LatentLayout):
    """`AutoencoderKLFlux2`: 2 × 2 are one place, standardised by channel; FLUX.2."""

    @property
    def channels(self) -> int:
        """Of a patch."""
        return self.config.latent_channels * PATCH**2

    @staticmethod
    def factor(config: Mapping) -> int:
        """That of its levels, and of a patch."""
        return ScaledLatents.factor(config) * PATCH

    def given(self, z: Tensor) -> Tensor:
        """Patches less their mean, over their deviation."""
        mean, deviation = self._moments(z)
        return (F.pixel_unshuffle(z, PATCH) - mean) / deviation

    def decoded(self, latents: Tensor) -> Tensor:
        """The other way round."""
        mean, deviation = self._moments(latents)
        return self.vae.decode(F.pixel_shuffle(latents * deviation + mean, PATCH)).sample

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.vae.bn
        variance = norm.running_var.to(like) + self.config.batch_norm_eps
        return norm.running_mean.to(like)[:, None, None], variance.sqrt()[:, None, None]


class FrameLatents(LatentLayout):
    """`AutoencoderKLQwenImage`: of films of one frame, standardised by channel; Qwen-Image."""

    @property
    def channels(self) -> int:
        """Its own."""
        return self.config.z_dim

    @staticmethod
    def factor(config: Mapping) -> int:
        """Half for every level but the last."""
        return 2 ** len(config["temperal_downsample"])

    def posterior(self, images: Tensor) -> object:
        """Of films of one frame."""
        return super().posterior(images[:, :, None])

    def given(self, z: Tensor) -> Tensor:
        """The one frame less its mean, over its deviation."""
        mean, deviation = self._moments(z)
        return (z[:, :, 0] - mean) / deviation

    def decoded(self, latents: Tensor) -> Tensor:
        """The other way round."""
        mean, deviation = self._moments(latents)
        return self.vae.decode((latents * deviation + mean)[:, :, None]).sample[:, :, 0]

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        moments = (self.config.latents_mean, self.config.latents_std)
        mean, deviation = (torch.tensor(each).to(like)[:, None, None] for each in moments)
        return mean, deviation


LAYOUTS: Mapping[str, type[LatentLayout]] = {
    "AutoencoderKL": ScaledLatents,
    "AutoencoderKLFlux2": PatchedLatents,
    "AutoencoderKLQwenImage": FrameLatents,
}
