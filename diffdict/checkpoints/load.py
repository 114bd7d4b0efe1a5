"""Weights into a network, all of them or none."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from diffdict.checkpoints.misfit import misfit
from diffdict.checkpoints.read import load_state_dict
from diffdict.errors import UserError


def load_into(
    net: nn.Module,
    checkpoint: str | Path,
    layout: str | None = None,
    *,
    ignore: Sequence[str] = (),
    within: str = "",
    folder: str | Path | None = None,
) -> str:
    """Fills the network, strictly, and returns the file's sha256.

    ignore: prefixes of entries that the file has and the network rightly lacks (a decoder, a head).
    within: the prefix under which a larger network holds this one, where the file is of that.
    """
    weights = load_state_dict(checkpoint, layout, folder)
    state, ours = weights.state, net.state_dict()
    inside = {k.removeprefix(within): v for k, v in state.items() if k.startswith(within)}
    if within and any(key in ours for key in inside):
        state = inside
    load_strictly(net, state, weights.path, ignore=ignore)
    return weights.sha256


def load_strictly(
    net: nn.Module,
    state: Mapping[str, Tensor],
    source: str | Path,
    *,
    ignore: Sequence[str] = (),
) -> None:
    """These weights into the network, in the network's dtype; a misfit names the likely flag."""
    ours = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    state = {
        key: value
        for key, value in _below(state, ours).items()
        if key in ours or not key.startswith(tuple(ignore))
    }
    theirs = {key: tuple(value.shape) for key, value in state.items()}
    if ours != theirs:
        raise UserError(misfit(net, ours, theirs, source))
    net.load_state_dict(state)


def _below(state: Mapping[str, Tensor], ours: Mapping) -> dict[str, Tensor]:
    """The weights without a prefix that all share and the network does not know."""
    tops = {key.partition(".")[0] for key in state}
    inner = {key.partition(".")[2]: value for key, value in state.items()}
    if (
        len(tops) == 1
        and not any(key in ours for key in state)
        and any(key in ours for key in inner)
    ):
        return inner
    return dict(state)
