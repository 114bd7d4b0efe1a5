"""What an effect is compared with: other directions as long, other latents as frequent."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from diffdict.data.base import Pictures
from diffdict.diffusion.samplers import own_noise
from diffdict.errors import UserError
from diffdict.features.codes.studied_dictionary import StudiedDictionary
from diffdict.metrics.concepts.ranking import token_labels

Edit = Callable[[Tensor, Tensor], Tensor]  # (a block's map, timesteps [batch]) → its new map
TINY = 1e-12  # a share of a picture's change below which there is none to equal
MOST = 50.0  # times as strong


class Redirected:
    """At each token a change as long as another edit's, in a direction of its own."""

    def __init__(self, edit: Edit, directions: Mapping[int | None, Float[Tensor, " channels"]]):
        """`directions`: by timestep, the nearest one is taken; None: one for all."""
        self.edit = edit
        self.timesteps = [t for t in directions if t is not None]
        self.directions = torch.stack([F.normalize(d.float(), dim=0) for d in directions.values()])

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The map after the control's edit; where the other edit is none, this is none."""
        lengths = (self.edit(x, t) - x).float().norm(dim=1, keepdim=True)
        directions = self.directions.to(x.device)
        if self.timesteps:
            timesteps = torch.tensor(self.timesteps, dtype=torch.float64, device=t.device)
            nearest = (t.double()[:, None] - timesteps).abs().argmin(1)
        else:
            nearest = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return x + (lengths * directions[nearest][:, :, None, None]).to(x.dtype)


class Strengthened:
    """Another edit's change, times a factor of each picture."""

    def __init__(self, edit: Edit, factors: Float[Tensor, " pictures"]) -> None:
        self.edit, self.factors = edit, factors

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The map after so many times the change."""
        change = self.edit(x, t).float() - x.float()
        return x + (self.factors.to(x.device).float()[:, None, None, None] * change).to(x.dtype)


def equal_factors(
    wanted: Float[Tensor, " pictures"], came: Float[Tensor, " pictures"]
) -> Float[Tensor, " pictures"]:
    """How much stronger an edit has to be for as large a change of each picture, to first order."""
    return (wanted / came.clamp(min=TINY)).sqrt().clamp(max=MOST)


def random_direction(channels: int, seed: int) -> dict[None, Float[Tensor, " channels"]]:
    """One direction for all timesteps."""
    generator = torch.Generator().manual_seed(seed)
    return {None: torch.randn(channels, generator=generator)}


def like_density(
    own: Sequence[int], density: Float[Tensor, " latents"], taken: Sequence[int] = ()
) -> list[int]:
    """For each of the latents the nearest in density that is none of them; only those alive."""
    free = {i for i in density.nonzero()[:, 0].tolist() if i not in own and i not in taken}
    if len(free) < len(own):
        raise UserError(
            f"{len(own)} other latents are compared with, and {len(free)} more are alive: most="
            f"{max(1, len(free) // 2)}"
        )
    logs = density.double().clamp(min=1e-9).log()
    others = []
    for latent in own:
        best = min(free, key=lambda i: (abs(float(logs[i] - logs[latent])), i))
        others.append(best)
        free.remove(best)
    return others


@torch.no_grad()
def class_differences(
    studied: StudiedDictionary, pictures: Pictures, number: int, seed: int
) -> dict[int, Float[Tensor, "classes channels"]]:
    """Each class's mean token less the mean over all, at every timestep: what labels can do."""
    net, block = studied.net, studied.block
    names, ignored = pictures.class_names, getattr(pictures, "ignore_label", None)
    device = next(net.parameters()).device
    differences = {}
    for t in studied.timesteps:
        sums, counts, whole, tokens = 0.0, 0.0, 0.0, 0
        for index in range(min(number, len(pictures))):
            sample = pictures[index]
            image = sample["image"][None].to(device)
            noise = own_noise(seed, [index], image.shape[1:])(t).to(image)
            maps = net.features(image, t, [block], noise)[block].double()
            mask = torch.as_tensor(sample["mask"]).long()[None].to(device)
            labels = token_labels(mask, tuple(maps.shape[2:]), names, ignored).flatten()
            rows = maps[0].flatten(1).T
            one_hot = F.one_hot(labels.clamp(min=0), len(names)).double() * (labels >= 0)[:, None]
            sums, counts = sums + one_hot.T @ rows, counts + one_hot.sum(0)
            whole, tokens = whole + rows.sum(0), tokens + len(rows)
        means = sums / counts[:, None].clamp(min=1) - whole / tokens
        differences[t] = torch.where(counts[:, None] > 0, means, 0).float()
    return differences
