"""Where a class is in a plain picture, for edits that are to reach nothing else: `where=eyes`."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffdict.backbones.base import Backbone
from diffdict.errors import UserError
from diffdict.sae.steering import Steering
from diffdict.tasks.interventions.judge import Opener, check_labeller


class Region(nn.Module):
    """A class of a labeller's; the labeller looks once at each plain picture."""

    def __init__(self, concept: str, labeller: Opener | None, net: Backbone) -> None:
        super().__init__()
        self.labeller = check_labeller(labeller, net, f"where={concept}")
        names = list(self.labeller.segmenter.class_names)
        if concept not in names:
            raise UserError(f"where={concept} is no class of the labeller's: {', '.join(names)}")
        self.concept, self.label = concept, names.index(concept)

    @property
    def identity(self) -> dict[str, object]:
        """All that changes where an edit reaches."""
        return {"where": {"class": self.concept, **self.labeller.identity}}

    @torch.no_grad()
    def give(self, edits: Sequence[Steering], off: Tensor, indices: list[int]) -> None:
        """Narrows the edits to where these pictures show the class; nowhere changes nothing."""
        masks = self.labeller(off.float().clamp(-1, 1), indices).masks == self.label
        for edit in edits:
            edit.where = masks.float()
