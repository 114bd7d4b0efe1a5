"""What a dictionary's latents do in test pictures: crops to name them by, places to judge by."""

from collections.abc import Iterator, Sequence
from itertools import islice

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from rich.progress import track
from torch import Tensor

from diffdict import files
from diffdict.features.whole_pictures import SeenPicture
from diffdict.reports.concepts.heights import token_maps
from diffdict.reports.concepts.strongest import Strongest
from diffdict.reports.latent_names.activity import PictureActivity
from diffdict.reports.latent_names.crops import Crop
from diffdict.sae.base import Sae


class TestPictures:
    """The first pictures of a test split, through one dictionary; several maps count as one."""

    __test__ = False  # for pytest, which looks for such names

    def __init__(self, data: pl.LightningDataModule, sae: Sae, most: int) -> None:
        self.data, self.sae = data, sae
        self.count = min(most, len(data.seen("test")))
        first = next(iter(data.seen("test")))
        self.grid = tuple(token_maps(first.maps.images(), sae.d_in)[0].shape[1:])

    @torch.no_grad()
    def strongest(self, pictures: Sequence[int], top: int) -> Strongest:
        """Of these pictures the few in which each latent is strongest."""
        best, wanted = Strongest(self.sae.latents, self.grid, top), set(pictures)
        for item in self._pass("Strongest places"):
            if item.index in wanted:
                for tokens in self._tokens(item):
                    best.add(item.index, self.sae.encode_sparse(tokens))
        return best

    @torch.no_grad()
    def activity(self, latents: Sequence[int], reach: int) -> PictureActivity:
        """Of some latents, in all of these pictures."""
        activity = PictureActivity(latents, self.count, self.grid, reach)
        for item in self._pass("Active and silent places"):
            codes = [self.sae.encode(tokens)[:, list(latents)] for tokens in self._tokens(item)]
            activity.add(item.index, torch.stack(codes).amax(0))
        return activity

    def _pass(self, title: str) -> Iterator[SeenPicture]:
        some = islice(self.data.seen("test"), self.count)
        return iter(track(some, title, self.count, console=files.console()))

    def _tokens(self, item: SeenPicture) -> list[Float[Tensor, "tokens d_in"]]:
        maps = token_maps(item.maps.images(), self.sae.d_in)
        return [each.flatten(1).T.to(self.sae.W_enc.device) for each in maps]


def crops_to_name(
    strongest: Strongest, latents: Sequence[int] | None, most: int
) -> dict[int, list[Crop]]:
    """Of each latent its strongest places, each in another picture, the strongest first.

    None: `most` of those that fill their places, the largest activations first.
    """
    crops = {latent: _peaks(strongest, latent) for latent in latents or range(len(strongest.sums))}
    if latents is not None:
        return {latent: some for latent, some in crops.items() if some}
    full = max(map(len, crops.values()), default=0)
    some = [latent for latent, places in crops.items() if places and len(places) == full]
    some.sort(key=lambda latent: -strongest.top(latent)[0].maximum)
    return {latent: crops[latent] for latent in sorted(some[:most])}


def _peaks(strongest: Strongest, latent: int) -> list[Crop]:
    """One a picture: stacked maps of a picture may fill several places."""
    sights = {}
    for sight in strongest.top(latent):
        sights.setdefault(sight.picture, Crop(sight.picture, int(sight.levels.argmax()), True))
    return list(sights.values())
