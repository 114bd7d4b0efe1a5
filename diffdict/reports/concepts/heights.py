"""How far latents are above their floors in a picture, where they are active as it is counted."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from diffdict.bilinear.cells import find_cells, upsample
from diffdict.metrics.concepts.entries import ranked_pixels
from diffdict.metrics.concepts.pre_activations import Native, PreActivations


def token_maps(
    maps: Sequence[Float[Tensor, "1 _ _ _"]], d_in: int
) -> list[Float[Tensor, "d_in height width"]]:
    """Maps of one picture as a dictionary of this width takes them: side by side, or each alone."""
    if sum(each.shape[1] for each in maps) == d_in:
        return [torch.cat([each[0] for each in maps])]
    return [each[0] for each in maps]


@torch.no_grad()
def heights(
    pre: PreActivations,
    floors: Float[Tensor, " latents"],
    chosen: Int64[Tensor, " chosen"],
    thresholds: Float[Tensor, " chosen"],
    size: tuple[int, int],
    ranked: int | None = None,
) -> Float[Tensor, "chosen height width"]:
    """How far some latents are above their floors where they are active in a picture, else 0.

    Active is what `metrics.Concepts` counts: pre-activations, upsampled to `size`, above a latent's
    threshold and, where `ranked`, among the so many largest of all latents.
    """
    native = Native(pre, len(floors))
    groups = find_cells(native.grid, size, 1, native.device)
    if ranked is None:
        values = upsample(native.at(chosen), groups).T
    else:
        values = _ranked_values(native, groups, chosen, thresholds, ranked)
    active = values > thresholds[:, None]
    above = torch.where(active, values - floors[chosen][:, None], 0)
    return above.unflatten(1, size)


def _ranked_values(
    native: Native, groups: list, chosen: Tensor, thresholds: Tensor, k: int
) -> Float[Tensor, "chosen pixels"]:
    """Upsampled pre-activations where they are among the k largest, -inf elsewhere."""
    which, row = chosen.unique(return_inverse=True)
    least = torch.full((native.latents,), torch.inf, device=native.device)
    least.scatter_reduce_(0, chosen, thresholds, "amin")  # nothing else has to be found
    place = torch.full((native.latents,), -1, device=native.device)
    place[which] = torch.arange(len(which), device=native.device)
    pixels = sum(cells.pixels.numel() for cells in groups)
    values = torch.full((len(which), pixels), -torch.inf, device=native.device)
    for entries in ranked_pixels(native, groups, least, k):
        values[place[entries.latent], entries.pixel] = entries.value
    return values[row]
