"""A namer and a scorer that know three colours, and a world whose classes have them."""

import torch
from torch.nn import functional as F

from diffdict.features.whole_pictures import LabelledPicture
from tests.reports.world import PALETTE, World

COLOURS = dict(zip(("blue", "navy", "orange", "yellow"), PALETTE, strict=True))
PICTURES = 40


class ColouredWorld(World):
    """Forty pictures in the colours of their classes."""

    def labelled(self, split):
        every = range(PICTURES)
        return [LabelledPicture(self.maps(split, i), self.mask(split, i), i) for i in every]

    def picture(self, split, index):
        if not self.at_hand:
            return None
        colours = torch.tensor([*PALETTE, (0, 0, 0)]) / 127.5 - 1
        return colours[self.mask(split, index).clamp(max=4)].permute(2, 0, 1)


class ColourScorer:
    """How near the middle of a crop is to a colour."""

    def __call__(self, crops, texts):
        middle = F.adaptive_avg_pool2d(crops, 3)[:, :, 1, 1]
        colours = torch.tensor([COLOURS[text] for text in texts]) / 127.5 - 1
        return -torch.cdist(middle, colours)


class ColourNamer:
    """Another latent's best colour, then a latent's own: who chooses must judge."""

    def __call__(self, crops):
        names, scorer = list(COLOURS), ColourScorer()
        best = [names[int(scorer(some, names).mean(0).argmax())] for some in crops.values()]
        others = [*best[1:], best[0]]
        return {latent: [others[i], best[i]] for i, latent in enumerate(crops)}
