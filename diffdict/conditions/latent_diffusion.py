"""`condition=latent_diffusion`: codes of no picture, by what task=latent_diffusion learned."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.latent_mlp import LatentMLP
from diffdict.checkpoints.load import load_strictly
from diffdict.checkpoints.read import read, unwrapped
from diffdict.conditions.base import (
    BATCH,
    ConditionRows,
    ConditionSource,
    MakesVectors,
    check_vectors,
    plain_rows,
)
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim, own_noise
from diffdict.diffusion.schedules import Schedule, make_schedule
from diffdict.errors import UserError
from diffdict.results.inputs.directions import read_moments
from diffdict.seeds import entropy

PUBLISHED = "ema_latent_denoise_fn"  # where PDAE's files hold the average
LATENTS = 7  # the family of draws of codes: none of them is a picture's noise


class LatentNetwork(NamedTuple):
    """What draws normalised codes, and what makes codes of them."""

    net: LatentMLP
    mean: Float[Tensor, " code"]
    std: Float[Tensor, " code"]
    chain: Schedule
    facts: dict[str, object]  # whose codes; of a published file none


class DrawnCodes(ConditionSource):
    """A code a sample, each from noise of its own."""

    def __init__(
        self,
        ckpt: str | None,
        latents: str | None = None,
        respacing: str = "linspace100",
        clamp: bool = True,
        undirected: float | int = 0.3,
        seed: int = 0,
    ) -> None:
        """`latents`: mean and std beside a published network. `clamp`: as published, each
        prediction of a normalised code is kept in [-1, 1], though its deviation is 1."""
        if ckpt is None:
            raise UserError(
                "condition=latent_diffusion needs what draws the codes: "
                "condition.ckpt=outputs/…/last.ckpt of task=latent_diffusion"
            )
        self.ckpt, self.latents, self.respacing = Path(ckpt), latents, respacing
        self.clamp, self.undirected, self.seed = clamp, undirected, seed
        self.check_share()

    def rows(
        self, maker: MakesVectors | None, width: int, number: int, device: torch.device
    ) -> ConditionRows:
        """Code i is drawn from noise that i owns."""
        opened = open_latent_network(self.ckpt, self.latents)
        opened.net.to(device)
        parts = []
        for at in range(0, number, BATCH):
            places = range(at, min(at + BATCH, number))
            noise = own_noise(entropy(self.seed, LATENTS), places, (opened.net.code,))
            parts.append(self.draw(opened, noise(opened.chain.steps).to(device)).cpu())
        names = [f"code {row}" for row in range(number)]
        vectors = torch.cat(parts)
        check_vectors(vectors, width, names, str(self.ckpt), "The network")
        return plain_rows(vectors, names)

    @torch.no_grad()
    def draw(
        self, opened: LatentNetwork, noise: Float[Tensor, "batch code"]
    ) -> Float[Tensor, "batch code"]:
        """Codes from noise, by ddim down to the chain's first point."""
        codes = ddim(
            lambda z, t: opened.net(z.flatten(1), t)[:, :, None, None],
            noise.clamp(-1, 1)[:, :, None, None] if self.clamp else noise[:, :, None, None],
            opened.chain,
            objective=Objective(variance="fixed_small"),
            respacing=self.respacing,
            clip_denoised=self.clamp,
            stop=0,
        ).x.flatten(1)
        return codes * opened.std.to(codes.device) + opened.mean.to(codes.device)

    def facts(self, maker: MakesVectors | None) -> Mapping[str, object]:
        """The file, and how it is drawn from; refuses codes of another network."""
        theirs = open_latent_network(self.ckpt, self.latents).facts
        with self.ckpt.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        other = theirs.get("backbone_sha256")
        if maker is not None and other not in (None, maker.sha256):
            raise UserError(
                f"condition.ckpt={self.ckpt} draws codes of {theirs['backbone']} with weights "
                f"{other[:12]}…, and {maker.name} has {maker.sha256[:12]}…: give the "
                "backbone.checkpoint= that it was learned on"
            )
        return {
            "condition": "latent_diffusion",
            "vectors_sha256": digest,
            "latents": self.latents,
            "latents_respacing": self.respacing,
            "clamp": self.clamp,
            "undirected": self.undirected,
            "latents_seed": self.seed,
        }


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(
            f"No file condition.ckpt={path}: name the last.ckpt of task=latent_diffusion"
        )
    return path


def open_latent_network(ckpt: Path, latents: str | None = None) -> LatentNetwork:
    """A run of ours, or PDAE's released file with the mean and std that lie beside it."""
    content, _ = read(_existing(ckpt))
    facts = content.get("latent_diffusion")
    if PUBLISHED in content:
        return _published(ckpt, content[PUBLISHED], latents)
    if not isinstance(facts, Mapping):
        raise UserError(
            f"condition.ckpt={ckpt} is no run of task=latent_diffusion, which learns to draw "
            "codes: python train.py task=latent_diffusion …"
        )
    size = {key: facts[key] for key in ("code", "width", "layers", "time_width", "norm")}
    net, state = LatentMLP(**size), content["state_dict"]
    average = {k.removeprefix("ema."): v for k, v in state.items() if k.startswith("ema.")}
    load_strictly(net, average, ckpt)
    chain = make_schedule("constant", facts["steps"])
    net = net.requires_grad_(False).eval()
    return LatentNetwork(net, state["code_mean"], state["code_std"], chain, dict(facts))


def _published(ckpt: Path, state: Mapping, latents: str | None) -> LatentNetwork:
    """PDAE's: sizes are read off the shapes."""
    if latents is None:
        raise UserError(
            f"condition.ckpt={ckpt} draws normalised codes: condition.latents=FILE names their "
            "mean and std (trained-models/latents/SET.pt)"
        )
    state = unwrapped(dict(state))
    try:
        places = {int(key.split(".")[1]) for key in state if key.startswith("layers.")}
        code, time_width = state["time_embed.0.weight"].shape
        width = state["layers.0.linear.weight"].shape[0]
        norm = "layers.0.norm.weight" in state
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{ckpt} holds no denoiser of codes under {PUBLISHED}") from error
    net = LatentMLP(code, width, max(places) + 1, time_width, norm)
    load_strictly(net, state, ckpt)
    mean, std = read_moments(latents, code)
    net = net.requires_grad_(False).eval()
    return LatentNetwork(net, mean, std, make_schedule("constant", 1000), {})
