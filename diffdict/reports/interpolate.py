"""`report=interpolate`: the way between two pictures, by their codes and their noise."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffdict.backbones.autoencoders.mixed_shift import mixing, side_by_side
from diffdict.backbones.pdae import Pdae
from diffdict.diffusion.chains.interpolation import slerp
from diffdict.diffusion.objectives import Net
from diffdict.errors import UserError
from diffdict.reports.codes.base import CodeReport, check_finite_pictures, check_picture_pairs
from diffdict.reports.codes.chains import Chains
from diffdict.reports.codes.lines import PictureLine, draw_lines
from diffdict.reports.codes.parts import AskedParts, CodeSlice, code_slices
from diffdict.results.tables import Row


class Interpolate(CodeReport):
    """Codes linear and noise spherical; below it, from one noise, both codes' gradients mixed.

    With `segments` or `stages` also a line each where that part of the code alone goes over.
    """

    word = "interpolate"

    def __init__(
        self,
        *,
        pairs: Sequence[Sequence[int]] = ((0, 1),),
        steps: int = 11,
        trajectory: bool = True,
        segments: AskedParts = None,
        **sheet: object,
    ) -> None:
        """`segments`: parts as [first, end) of the segments, or `stages`; None: the whole code."""
        super().__init__(**sheet)
        self.pairs = check_picture_pairs(pairs, self.word)
        if steps < 2:
            raise UserError(f"report.interpolate.steps is at least 2, both ends, got {steps}")
        self.shares = torch.linspace(0, 1, steps)
        self.trajectory, self.segments = trajectory, segments
        self.pictures = [index for pair in self.pairs for index in pair]

    def check(self, pdae: Pdae) -> None:
        """Parts that the code has."""
        self._parts(pdae)

    def _parts(self, pdae: Pdae) -> list[CodeSlice]:
        return [] if self.segments is None else code_slices(pdae, self.segments, self.word)

    def sheet(
        self, chains: Chains, images: Float[Tensor, "n 3 side side"]
    ) -> tuple[Image.Image, list[Row]]:
        """Every pair's lines; all chains of a kind at once."""
        codes = chains.codes(images)
        noise = chains.invert(images, codes)
        parts = self._parts(chains.net.pdae)
        names = ["codes and noise", *(part.name for part in parts)]
        starts, blends, mixed = [], [], []
        for pair in self.pairs:
            first, second = self.places(pair)
            ends = codes[[first]], codes[[second]]
            around = torch.cat(
                [slerp(noise[[first]], noise[[second]], float(s)) for s in self.shares]
            )
            shares = self.shares.to(codes)[:, None]
            blends.append(torch.lerp(ends[0], ends[1], shares))
            starts.append(around)
            for part in parts:
                rows = ends[0].repeat(len(shares), 1)
                rows[:, part.entries] = torch.lerp(*(end[:, part.entries] for end in ends), shares)
                blends.append(rows)
                starts.append(noise[[first]].expand(len(shares), -1, -1, -1))
            both = [end.expand(len(shares), -1) for end in ends]
            mixed.append(side_by_side(*both, shares[:, 0]))
        pictures = chains.draw(torch.cat(starts), torch.cat(blends))
        check_finite_pictures(pictures, self.word)
        lines = pictures.unflatten(0, (len(self.pairs), len(names), len(self.shares)))
        along = None
        if self.trajectory:
            firsts = [self.places(pair)[0] for pair in self.pairs]
            rows = noise[firsts].repeat_interleave(len(self.shares), 0)
            along = chains.draw(rows, torch.cat(mixed), trajectory(chains))
            along = along.unflatten(0, (len(self.pairs), len(self.shares)))
        return draw_lines(self._lines(images, lines, along, names)), []

    def _lines(
        self,
        images: Float[Tensor, "n 3 side side"],
        lines: Float[Tensor, "pairs names shares 3 side side"],
        along: Float[Tensor, "pairs shares 3 side side"] | None,
        names: Sequence[str],
    ) -> list[PictureLine]:
        """Each between its two pictures."""
        picture_lines = []
        for row, pair in enumerate(self.pairs):
            first, second = (images[[place]] for place in self.places(pair))
            entries = [*zip(names, lines[row], strict=True)]
            if along is not None:
                entries.insert(1, ("trajectory", along[row]))
            for name, pictures in entries:
                captions = [f"{share:.2g}" for share in self.shares.tolist()]
                captions = [name, *captions, f"picture {pair[1]}"]
                picture_lines.append(PictureLine(torch.cat([first, pictures, second]), captions))
        return picture_lines


def trajectory(chains: Chains) -> Callable[[Tensor], Net]:
    """The network under two codes and a share: way down and frozen half are passed once."""
    net = chains.net
    mixed = mixing(net.pdae)

    def told(both: Float[Tensor, "batch both"]) -> Net:
        width = net.dim
        first, second, share = both.split([width, width, 1], dim=1)

        def asked(x: Tensor, t: Tensor) -> Tensor:
            opened = [net.opened(codes, t) for codes in (first, second)]
            return net.guided(mixed.denoise(x, t, side_by_side(*opened, share[:, 0])), t)

        return asked

    return told
