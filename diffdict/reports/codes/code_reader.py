"""What is read off codes of drawn pictures: attributes, by ridge or along learned directions."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffdict.data.attributes import Attribute
from diffdict.data.base import Pictures
from diffdict.metrics.attributes import RIDGES, fit_reader
from diffdict.metrics.attributes.attribute_scores import measurable
from diffdict.reports.codes.chains import Chains
from diffdict.results.inputs.directions import Directions, open_directions

RIDGE = "ridge"  # the word of a probe in closed form
HELD_SHARE = 0.25  # of its pictures, the last of them, choose each ridge, as in task=probe_sweep


class CodeReader(NamedTuple):
    """Reads attributes off codes: of a binary one the more the likelier, of a number its value."""

    names: Sequence[str]
    binary: Bool[Tensor, " attributes"]
    scores: Callable[[Tensor], Tensor]  # codes → [pictures, attributes]
    cutoffs: Float[Tensor, " attributes"]  # above, a binary one is taken to be there
    deviation: Float[Tensor, " attributes"]  # of what is read of training pictures
    kind: str = RIDGE  # of probe, for tables

    def read(
        self, chains: Chains, images: Float[Tensor, "n 3 side side"]
    ) -> Float[Tensor, "n attributes"]:
        """What is said of pictures, drawn ones too."""
        return self.scores(chains.codes(images.clamp(-1, 1))).float().cpu()


class CodeProbe:
    """Which probe a sheet reads with, opened or fitted when it is asked for."""

    def __init__(self, probe: str | None, latents: str | None, pictures: int) -> None:
        """`probe`: ridge, the file of directions, or None; `pictures` that a ridge learns from."""
        self.pictures = pictures if probe == RIDGE else 0
        self.directions = None if probe in (None, RIDGE) else open_directions(probe, latents)

    def reader(self, chains: Chains, train: Pictures) -> CodeReader | None:
        """None where none is asked for, or these pictures tell no attribute apart."""
        if self.directions is not None:
            return read_along(self.directions)
        return fit_code_reader(chains, train, self.pictures) if self.pictures else None


def read_along(directions: Directions) -> CodeReader:
    """Logits; their deviation over normalised codes is the length of the direction."""
    zeros = torch.zeros(len(directions.names))
    return CodeReader(
        directions.names,
        zeros == 0,
        directions.scores,
        zeros,
        directions.weight.norm(dim=1).cpu(),
        "direction",
    )


def fit_code_reader(chains: Chains, train: Pictures, number: int) -> CodeReader | None:
    """By ridge on the first so many training pictures; constant attributes are left out."""
    count = min(number, len(train))
    attributes: Sequence[Attribute] = train.attributes
    if not attributes or count < 4:
        print(f"No probe reads these pictures: {_reason(train, count)}")
        return None
    codes, truth = [], []
    for begin in range(0, count, chains.batch):
        rows = [train[index] for index in range(begin, min(begin + chains.batch, count))]
        images = torch.stack([row["image"] for row in rows]).to(chains.device)
        codes.append(chains.codes(images).cpu())
        truth.append(torch.stack([row["attributes"] for row in rows]))
    rows, labels = torch.cat(codes), torch.cat(truth).double()
    fitted = count - max(1, round(count * HELD_SHARE))
    binary = torch.tensor([attribute.kind == "binary" for attribute in attributes])
    usable = measurable(labels[:fitted], binary)
    if not usable.any():
        print(f"No probe reads these pictures: {_reason(train, count)}")
        return None
    binary, labels = binary[usable], labels[:, usable]
    reader = fit_reader(
        (rows[:fitted], labels[:fitted]), (rows[fitted:], labels[fitted:]), binary, RIDGES
    )
    names = [one.name for one, has in zip(attributes, usable.tolist(), strict=True) if has]
    return CodeReader(names, binary, reader.read, reader.cutoffs, reader.read(rows).std(0).float())


def _reason(train: Pictures, count: int) -> str:
    if not train.attributes:
        return f"{train.name} says no attributes of them"
    return f"the first {count} training pictures of {train.name} tell no attribute apart"
