"""Samples pushed beyond what a condition says: a wrapper of the network; samplers never know.

    none + g · (own − none)

of what the network predicts, own with its vector and none without (Ho and Salimans 2022); the
variance, where the network has one of its own, stays that of own.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffdict.errors import UserError

CHANNELS = 3  # of what is predicted; what comes after them is the variance


def check_guidance(guidance: float | int, drop: float | int | None, name: str) -> None:
    """A weight that leads somewhere; all but 1 need a network that has learned without vectors."""
    if not 0 <= guidance < float("inf"):
        raise UserError(
            f"model.guidance is a weight from 0 on, got {guidance}: 1.0 is the plain network, "
            "0.0 the one that is told nothing, 2.0 twice as far"
        )
    if guidance != 1 and not drop:
        raise UserError(
            f"model.guidance={guidance} needs a network that has learned without vectors too, and "
            f"{name} has not: model.guidance=1.0, or one trained with model.drop=0.1"
        )


def guided(
    net: Callable[..., Tensor], given: tuple, guidance: float | int
) -> Callable[[Tensor, Tensor], Tensor]:
    """The network as samplers call it; 1 is the network itself, else a doubled batch a step."""
    if guidance == 1:
        return lambda x_t, t: net(x_t, t, given)
    if given.vector is None:
        raise UserError(
            f"model.guidance={guidance} is about a vector, and none is given: model.guidance=1.0"
        )

    def predict(
        x_t: Float[Tensor, "batch channels height width"], t: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch out height width"]:
        twice = torch.cat([x_t, x_t]), torch.cat([t, t])
        with_vector, none = net(*twice, _doubled(given, len(x_t))).chunk(2)
        mean = none[:, :CHANNELS] + guidance * (with_vector[:, :CHANNELS] - none[:, :CHANNELS])
        return torch.cat([mean, with_vector[:, CHANNELS:]], dim=1)

    return predict


def _doubled(given: tuple, count: int) -> tuple:
    """The same again, told no vector."""
    vector = given.vector.expand(count, -1)
    told = torch.ones(2 * count, dtype=torch.bool, device=vector.device)
    told[count:] = False
    if given.told is not None:
        told[:count] = given.told
    label = None if given.label is None else torch.cat([given.label, given.label])
    return given._replace(vector=torch.cat([vector, vector]), told=told, label=label)
