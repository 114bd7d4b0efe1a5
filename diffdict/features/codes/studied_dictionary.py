"""A dictionary beside the network whose maps it reads, and edits of the block that it knows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from diffdict.backbones.base import Backbone, Block
from diffdict.backbones.denoiser import Edits, check_denoiser
from diffdict.errors import UserError
from diffdict.sae.base import Sae
from diffdict.sae.card import check_card, check_tokens, in_training_order, read_dictionary
from diffdict.sae.steering import Steering


class StudiedDictionary:
    """A frozen dictionary, numbered as in training, and the one block of the network it edits."""

    def __init__(
        self,
        sae: Sae,
        card: Mapping,
        net: Backbone,
        block: Block | None = None,
        latents: bool = False,
    ) -> None:
        """`block`: which, where the card names several. `latents`: it may denoise those."""
        self.net = check_denoiser(net, "a dictionary steers one while it draws", latents)
        check_card(card)
        check_tokens(card, {}, "The dictionary")
        sha256 = card.get("backbone_sha256")
        if sha256 not in (None, net.sha256):
            raise UserError(
                f"The dictionary was learned on {net.name} with the weights {sha256[:12]}…, the "
                f"ones here are {net.sha256[:12]}…: put the right weights there"
            )
        self.sae = in_training_order(sae, card).eval().requires_grad_(False)
        self.card, self.block = dict(card), chosen_block(card, net, block)
        self.timesteps = _listed(card["timestep"])
        width = net.shapes[self.block][0]
        self.parts = self._parts(width)
        if self.parts is None and width != self.sae.d_in:
            raise UserError(
                f"The dictionary takes tokens of width {self.sae.d_in}, block {self.block} of "
                f"{net.name} has {width} channels: name the block that it was learned on"
            )

    @property
    def encodes(self) -> bool:
        """Whether a single pass has codes; of concatenated maps it has none."""
        return self.parts is None

    def _parts(self, width: int) -> dict[int, slice] | None:
        """Of concatenated maps: this block's part of a row, by timestep."""
        blocks = _listed(self.card["block"])
        if self.card.get("mix", "concat") == "stack" or len(blocks) * len(self.timesteps) == 1:
            return None
        ordered = [block for block in self.net.shapes if block in blocks]
        widths = [self.net.shapes[block][0] for block in ordered]
        each, before = sum(widths), sum(widths[: ordered.index(self.block)])
        if each * len(self.timesteps) != self.sae.d_in:
            raise UserError(
                f"The card's timestep={self.card['timestep']} and block={self.card['block']} give "
                f"tokens of width {each * len(self.timesteps)}, the dictionary takes "
                f"{self.sae.d_in}: card and weights are not of one export"
            )
        starts = (i * each + before for i in range(len(self.timesteps)))
        return {t: slice(s, s + width) for t, s in zip(self.timesteps, starts, strict=True)}

    def edits(
        self,
        latents: Sequence[int],
        how: str = "scale",
        amount: int | float = -2.0,
        *,
        unit: Tensor | Sequence | float | None = None,
        where: Tensor | None = None,
        window: Sequence | None = None,
    ) -> Edits:
        """What `Denoiser.forward` takes: this block's steering."""
        settings = {"unit": unit, "where": where, "window": window, "parts": self.parts}
        return {self.block: Steering(self.sae, latents, how, amount, **settings)}

    def edit(self, change: Callable[[Tensor, Tensor], Tensor]) -> Edits:
        """Any other change of the block's map."""
        return {self.block: change}


def open_studied(
    path: str | Path,
    net: Backbone,
    name: str | None = None,
    block: Block | None = None,
    latents: bool = False,
) -> StudiedDictionary:
    """Of an export, a run's folder or a checkpoint; `name` chooses one of several."""
    sae, card = read_dictionary(path, name)
    device = next((weight.device for weight in net.parameters()), torch.device("cpu"))
    return StudiedDictionary(sae.to(device), card, net, block, latents)


def chosen_block(card: Mapping, net: Backbone, block: Block | None) -> Block:
    """The one block that is edited; of several the one that is asked for."""
    blocks = net.chosen(card["block"])
    if block is None and len(blocks) == 1:
        return blocks[0]
    if block not in blocks:
        names = ", ".join(map(str, blocks))
        raise UserError(
            f"The dictionary was learned on block {names} of {net.name}, and one is edited, got "
            f"block={block}: block={blocks[-1]}"
        )
    return block


def _listed(value: object) -> list:
    return list(value) if isinstance(value, list | tuple) else [value]
