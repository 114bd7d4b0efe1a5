"""From a picture to concepts: a learned dictionary with the backbone that it looks through."""

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from torch import Tensor

from diffdict import checkpoints
from diffdict.backbones.base import Backbone
from diffdict.data.pictures import fit_picture
from diffdict.errors import UserError, one_line
from diffdict.features.looking import Shown, open_picture
from diffdict.features.noise import Noise
from diffdict.features.pool import LivePool
from diffdict.features.sources import LiveSource
from diffdict.sae import kept
from diffdict.sae.base import Sae
from diffdict.sae.sparse import Codes

ROOM = "diffdict.backbones."  # nothing else is ever built at a card's word
Picture = str | Path | Image.Image | Tensor  # a tensor is [3, side, side] in [-1, 1]


class Seen(NamedTuple):
    """What a dictionary sees in one picture."""

    codes: Codes  # a token for each position, row after row
    maps: Float[Tensor, "latents height width"]  # the same codes, where they are
    grid: tuple[int, int]


class Dictionary:
    """A sparse autoencoder, its card, and the frozen backbone whose tokens it was learned on."""

    def __init__(self, sae: Sae, card: Mapping, device: str | torch.device = "cpu") -> None:
        """The backbone is built when the first picture comes."""
        self.device = torch.device(device)
        self.sae, self.card = sae.eval().requires_grad_(False).to(self.device), dict(card)

    @classmethod
    def load(
        cls, path: str | Path, name: str | None = None, device: str | torch.device = "cpu"
    ) -> "Dictionary":
        """From an exported folder, a run's folder, a checkpoint of task=sae, or an ae.pt.

        `name` chooses among dictionaries that were learned side by side: scale20.
        """
        sae, card = kept.load(path, name)
        if card is None:
            card = _card_of(checkpoints.config_of(path), Path(path))
        return cls(sae, card, device)

    @torch.no_grad()
    def encode(self, picture: Picture, *, stream: str | None = None, index: int = 0) -> Seen:
        """The codes of a picture, prepared and noised as those that the dictionary learned from.

        `stream` (t0150-b06) says what to look at where several were stacked in training; `index` is
        the picture's number where each had noise of its own (noise.shared=false).
        """
        source = self.source
        source.dataset.image = self._prepared(picture)
        pool = LivePool(source, [index], self.card.get("mix", "concat"), 1)
        if pool.width != self.sae.d_in:
            raise UserError(
                f"The card's timestep={self.card['timestep']} and block={self.card['block']} give "
                f"tokens of width {pool.width}, the dictionary takes {self.sae.d_in}: "
                f"card and weights are not of one export"
            )
        tokens = torch.empty(pool.strip, pool.width, device=self.device)
        pool.fill(torch.tensor([0]), tokens)
        first = self._stream(pool, stream) * pool.positions
        codes = self.sae.encode_sparse(tokens[first : first + pool.positions])
        grid = source.streams[0].height, source.streams[0].width
        return Seen(codes, codes.dense(self.sae.latents).T.unflatten(1, grid), grid)

    def decode(
        self, codes: Codes | Float[Tensor, "tokens latents"]
    ) -> Float[Tensor, "tokens d_in"]:
        """The raw tokens that codes stand for."""
        return self.sae.decode(codes)

    @cached_property
    def source(self) -> LiveSource:
        """The backbone at work, as in training."""
        needed = ("backbone", "timestep", "block")
        if missing := [key for key in needed if key not in self.card]:
            raise UserError(
                f"This dictionary's card does not say its {', '.join(missing)}, so pictures cannot "
                f"be encoded: give tokens to .sae.encode, or load an export of train.py"
            )
        net = build_backbone(self.card["backbone"])
        known = self.card.get("backbone_sha256")
        if known not in (None, net.sha256):
            raise UserError(
                f"The dictionary was learned on {net.name} with the weights {known[:12]}…, "
                f"checkpoint={self.card['backbone'].get('checkpoint')} holds {net.sha256[:12]}…: "
                f"put the right weights there"
            )
        return LiveSource(
            Shown(self.card.get("image_size") or net.image_size),
            net,
            self.card["timestep"],
            self.card["block"],
            Noise(**(self.card.get("noise") or {})),
            dtype="fp32",
            device=self.device,
        )

    def _prepared(self, picture: Picture) -> Float[Tensor, "3 side side"]:
        """The picture's middle square at the size that was learned on, in [-1, 1]."""
        side = self.source.dataset.image_size
        if isinstance(picture, Tensor):
            if picture.shape != (3, side, side) or not bool((picture.abs() <= 1).all()):
                raise UserError(
                    f"A picture as a tensor is [3, {side}, {side}] in [-1, 1], got "
                    f"{list(picture.shape)} in [{picture.min():.3g}, {picture.max():.3g}]: scale "
                    f"it, or give a path or a PIL.Image"
                )
            return picture.float()
        if isinstance(picture, Image.Image):
            return fit_picture(np.asarray(picture.convert("RGB")), side, "center", "The picture")
        return open_picture(picture, side)

    def _stream(self, pool: LivePool, wanted: str | None) -> int:
        """Which of a picture's stacked streams; concatenated ones are one."""
        names = [stream.name for stream in pool.streams] if pool.stack else []
        if wanted not in names and (len(names) > 1 or wanted is not None):
            held = f"one of {', '.join(names)}" if names else "left out: there is one"
            raise UserError(f"stream= must be {held}, got {wanted!r}")
        return names.index(wanted) if wanted else 0


def build_backbone(node: object) -> Backbone:
    """The backbone that a resolved config node describes, and nothing but a backbone."""
    target = node.get("_target_") if isinstance(node, Mapping) else None
    if not isinstance(target, str) or not target.startswith(ROOM):
        raise UserError(
            f"The card's backbone is refused: its _target_ must lie in {ROOM}*, got {target!r}. "
            f"A dictionary from elsewhere works on tokens: .sae.encode"
        )
    module, _, name = target.rpartition(".")
    try:
        made = getattr(import_module(module), name)
        if not (isinstance(made, type) and issubclass(made, Backbone)):
            raise TypeError(f"{name} is no backbone")
        return made(**{key: value for key, value in node.items() if key != "_target_"})
    except UserError:
        raise
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"The card's backbone cannot be built: {one_line(error)}") from error


def _card_of(config: dict, path: Path) -> dict:
    """What `encode` needs to know, out of a run's unresolved config."""
    places = {key: key for key in ("backbone", "timestep", "block", "noise")}
    places |= {"mix": "data.mix", "image_size": "dataset.image_size", "dataset": "dataset.name"}
    try:
        whole = OmegaConf.create(config)
        chosen = {key: OmegaConf.select(whole, place) for key, place in places.items()}
        chosen = {
            key: OmegaConf.to_container(value, resolve=True)
            if OmegaConf.is_config(value)
            else value
            for key, value in chosen.items()
        }
    except OmegaConfBaseException as error:
        raise UserError(
            f"The config in {path} cannot be resolved here ({one_line(error)}): load the folder "
            f"dictionary/ that the run wrote beside it"
        ) from error
    return {key: value for key, value in chosen.items() if value is not None or key == "timestep"}
