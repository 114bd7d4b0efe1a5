"""`report=manipulate`: pictures moved along the directions of attributes, a line an attribute."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffdict.backbones.pdae import Pdae
from diffdict.diffusion.interpolation import move
from diffdict.errors import UserError, at_least
from diffdict.reports.codes.base import CodeReport, check_finite_pictures
from diffdict.reports.codes.chains import Chains
from diffdict.reports.codes.lines import PictureLine, draw_lines
from diffdict.results.directions import Directions, open_directions
from diffdict.results.tables import Row


class Manipulate(CodeReport):
    """Each picture's own noise, its code moved by several scales; what a reader says of them.

    The table: by how much the drawn pictures' codes came to speak for the attribute (logits, of
    `probe`, or else of the directions themselves), and how far those of all others moved.
    """

    word = "manipulate"

    def __init__(
        self,
        *,
        direction: str | None,
        probe: str | None = None,
        latents: str | None = None,
        attributes: Sequence[str] | None = None,
        scales: Sequence[float | int] = (-1, -0.5, 0, 0.5, 1),
        pictures: int = 2,
        **sheet: object,
    ) -> None:
        """`direction`: what task=direction learned; `probe`: another, of all attributes, to read
        the drawn pictures by. `latents`: mean and std beside a released classifier."""
        super().__init__(**sheet)
        at_least(1, "report.manipulate", pictures=pictures)
        if direction is None:
            raise UserError(
                "report=manipulate needs a direction: report.manipulate.direction=outputs/…/"
                "last.ckpt of task=direction"
            )
        if not scales:
            raise UserError("report.manipulate.scales are numbers, got none: [-1,-0.5,0,0.5,1]")
        self.directions = open_directions(direction, latents)
        self.reader = self.directions if probe is None else open_directions(probe, latents)
        self.chosen = self.directions.chosen(attributes)
        self.scales, self.pictures = list(map(float, scales)), range(pictures)

    def check(self, pdae: Pdae) -> None:
        """Directions are of this network's codes."""
        for each in (self.directions, self.reader):
            each.check(pdae, pdae.shapes["code"][0])

    def sheet(
        self, chains: Chains, images: Float[Tensor, "n 3 side side"]
    ) -> tuple[Image.Image, list[Row]]:
        """All attributes, pictures and scales in as few batches as they fill."""
        codes = chains.codes(images)
        noise = chains.invert(images, codes)
        moved = moved_codes(codes, self.directions, self.chosen, self.scales)
        shape = moved.shape[:3]  # attributes, pictures, scales
        every = noise[None, :, None].expand(shape[0], -1, shape[2], -1, -1, -1)
        drawn = chains.draw(every.flatten(0, 2), moved.flatten(0, 2))
        check_finite_pictures(drawn, self.word)
        scores = self.reader.scores(chains.codes(drawn.clamp(-1, 1))).cpu().unflatten(0, shape)
        drawn = drawn.unflatten(0, shape)
        lines = [
            PictureLine(
                torch.cat([images[picture, None], drawn[row, picture]]),
                [self.directions.names[attribute], *(f"{scale:+g}" for scale in self.scales)],
            )
            for row, attribute in enumerate(self.chosen)
            for picture in range(shape[1])
        ]
        return draw_lines(lines), self._rows(scores)

    def _rows(self, scores: Float[Tensor, "chosen pictures scales attributes"]) -> list[Row]:
        """From the smallest to the largest scale, a mean over pictures."""
        low = min(range(len(self.scales)), key=self.scales.__getitem__)
        high = max(range(len(self.scales)), key=self.scales.__getitem__)
        change = scores[:, :, high] - scores[:, :, low]
        rows: list[Row] = []
        for row, attribute in enumerate(self.chosen):
            name = self.directions.names[attribute]
            own = self.reader.names.index(name) if name in self.reader.names else None
            others = [i for i in range(change.shape[2]) if i != own]
            apart = change[row][:, others].abs().mean() if others else torch.tensor(torch.nan)
            told = change[row, :, own].mean() if own is not None else torch.tensor(torch.nan)
            entries = int((self.directions.weight[attribute] != 0).sum())
            rows.append(
                {
                    "attribute": name,
                    "entries": entries,
                    "moved": float(told),
                    "others_moved": float(apart),
                    "pictures": change.shape[1],
                }
            )
        return rows


def moved_codes(
    codes: Float[Tensor, "pictures code"],
    directions: Directions,
    chosen: Sequence[int],
    scales: Sequence[float],
) -> Float[Tensor, "chosen pictures scales code"]:
    """Each code along each direction, whose length at scale 1 is √d; scale 0 is the code itself."""
    mean, std = directions.mean.to(codes), directions.std.to(codes)
    along = []
    for attribute in chosen:
        weight = directions.weight[attribute].to(codes)
        if not weight.any():
            raise UserError(
                f"The direction of {directions.names[attribute]} is zero, so nothing would move: "
                "learn it again with more entries (model.dims=)"
            )
        each = [codes if s == 0 else move(codes, weight, mean, std, s) for s in scales]
        along.append(torch.stack(each, dim=1))
    return torch.stack(along)
