"""Where latents are strongest in each picture and where they are silent, and cases to judge by."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from diffdict.reports.latent_names.crops import Crop
from diffdict.seeds import mix, permutation

LEAST = 4  # active and silent cases below which nothing is said of a name
NOWHERE = -1


class PictureActivity:
    """Of some latents, in every picture, the strongest place and one with silence all around."""

    def __init__(
        self, latents: Sequence[int], pictures: int, grid: tuple[int, int], reach: int
    ) -> None:
        """`reach`: how many places around a silent one are silent too."""
        self.latents, self.grid, self.reach = list(latents), grid, reach
        shape = (pictures, len(self.latents))
        self.maxima = torch.zeros(shape)
        self.peaks = torch.full(shape, NOWHERE)
        self.silent = torch.full(shape, NOWHERE)

    def add(self, picture: int, codes: Float[Tensor, "tokens latents"]) -> None:
        """A picture's codes of these latents, row after row."""
        codes = codes.float().cpu()
        self.maxima[picture], self.peaks[picture] = codes.max(0)
        active = (codes > 0).float().T.unflatten(1, self.grid)
        near = max_pool2d(active, 2 * self.reach + 1, stride=1, padding=self.reach).flatten(1)
        generator = torch.Generator().manual_seed(mix(picture))
        draw = torch.rand(near.shape[1], generator=generator)
        best = torch.where(near > 0, -1.0, draw).max(1)
        self.silent[picture] = torch.where(best.values < 0, NOWHERE, best.indices)

    def cases(self, latent: int, pictures: Sequence[int], count: int) -> list[Crop]:
        """As many active crops as silent ones; of the active, from the strongest to the weakest.

        None where the latent is active, or silent, in fewer than four of these pictures.
        """
        column, some = self.latents.index(latent), torch.as_tensor(pictures)
        maxima, silent = self.maxima[some, column], self.silent[some, column]
        order = maxima.argsort(descending=True, stable=True)
        strong = some[order[: int((maxima > 0).sum())]]
        still = some[silent != NOWHERE]
        count = min(count, len(strong), len(still))
        if count < LEAST:
            return []
        strong = strong[torch.linspace(0, len(strong) - 1, count).round().long()]
        still = still[permutation(len(still), latent)[:count]]
        return [
            *(Crop(i, int(self.peaks[i, column]), True) for i in strong.tolist()),
            *(Crop(i, int(self.silent[i, column]), False) for i in still.tolist()),
        ]


def halves(pictures: int) -> tuple[list[int], list[int]]:
    """Pictures that names are made by, and pictures held out to judge them."""
    order = permutation(pictures, 0).tolist()
    return sorted(order[: pictures // 2]), sorted(order[pictures // 2 :])
