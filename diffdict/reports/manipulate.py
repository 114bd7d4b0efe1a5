"""`report=manipulate`: pictures moved along the directions of attributes, a line an attribute."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffdict.backbones.pdae import Pdae
from diffdict.diffusion.chains.interpolation import move
from diffdict.errors import UserError, at_least
from diffdict.reports.codes.base import CodeReport, check_finite_pictures
from diffdict.reports.codes.chains import Chains
from diffdict.reports.codes.code_reader import RIDGE, CodeProbe, CodeReader, read_along
from diffdict.reports.codes.lines import PictureLine, draw_lines
from diffdict.results.inputs.directions import Directions, open_directions
from diffdict.results.tables import Row


class Manipulate(CodeReport):
    """Each picture's own noise, its code moved by several scales; what a probe reads of them.

    The table, over many pictures: how far from the smallest to the largest scale the reading of
    the attribute went, and those of all others, in deviations of the reading over pictures, so
    that networks can be compared. A probe that has learned nothing from the directions reads them;
    where the set has no attributes, the directions do themselves.
    """

    word = "manipulate"

    def __init__(
        self,
        *,
        direction: str | Sequence[str] | None,
        probe: str | None = RIDGE,
        probe_pictures: int = 1500,
        latents: str | None = None,
        attributes: Sequence[str] | None = None,
        scales: Sequence[float | int] = (-1, -0.5, 0, 0.5, 1),
        pictures: int = 2,
        measured: int = 32,
        beside: Sequence[str] = (),
        **sheet: object,
    ) -> None:
        """`direction`: what task=direction learned, once or several times. `probe`: ridge, fitted
        on the codes of `probe_pictures` training pictures, or another file of directions; None:
        the widest of those that move. `latents`: mean and std beside a released classifier.
        `measured`: pictures in the table. `beside`: the manipulate.csv of other runs.
        """
        super().__init__(**sheet)
        at_least(1, "report.manipulate", pictures=pictures)
        at_least(2, "report.manipulate", measured=measured)
        at_least(4, "report.manipulate", probe_pictures=probe_pictures)
        if not direction:
            raise UserError(
                "report=manipulate needs a direction: report.manipulate.direction=outputs/…/"
                "last.ckpt of task=direction"
            )
        if not scales:
            raise UserError("report.manipulate.scales are numbers, got none: [-1,-0.5,0,0.5,1]")
        paths = [direction] if isinstance(direction, str) else list(direction)
        self.directions = [open_directions(path, latents) for path in paths]
        self.probe = CodeProbe(probe, latents, probe_pictures)
        self.chosen = [(one, place) for one in self.directions for place in one.chosen(attributes)]
        self.scales, self.shown_pictures = list(map(float, scales)), pictures
        self.pictures, self.measured = range(pictures), measured
        self.beside = [row for path in beside for row in read_moved(Path(path))]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The table takes as many pictures as there are."""
        super().setup(trainer, pl_module, stage)
        most = max(self.shown_pictures, self.measured)
        self.pictures = range(min(most, len(self.shown)))

    def check_directions(self, pdae: Pdae, sha256: str) -> None:
        """Directions are of this network's codes."""
        for each in (*self.directions, self.probe.directions):
            if each is not None:
                each.check(pdae, pdae.shapes["code"][0], sha256)

    def sheet(
        self, chains: Chains, images: Float[Tensor, "n 3 side side"]
    ) -> tuple[Image.Image, list[Row]]:
        """All directions, pictures and scales in as few batches as they fill."""
        codes = chains.codes(images)
        noise = chains.invert(images, codes)
        n = self.shown_pictures
        pictures = self._draw(chains, codes[:n], noise[:n], self.scales)
        lines = [
            PictureLine(
                torch.cat([images[picture, None], pictures[row, picture]]),
                [self._name(row), *(f"{scale:+g}" for scale in self.scales)],
            )
            for row in range(len(self.chosen))
            for picture in range(n)
        ]
        reader = self.probe.reader(chains, self.dataset(split="train"))
        reader = reader or read_along(max(self.directions, key=lambda one: len(one.names)))
        return draw_lines(lines), [*self._rows(chains, codes, noise, reader), *self.beside]

    def _name(self, row: int) -> str:
        """The attribute of a line, and in how many entries it is moved."""
        one, place = self.chosen[row]
        return f"{one.names[place]} ({int((one.weight[place] != 0).sum())})"

    def _draw(
        self,
        chains: Chains,
        codes: Float[Tensor, "pictures code"],
        noise: Float[Tensor, "pictures 3 side side"],
        scales: Sequence[float],
    ) -> Float[Tensor, "chosen pictures scales 3 side side"]:
        """The pictures moved along every direction."""
        moved = torch.cat([moved_codes(codes, one, [place], scales) for one, place in self.chosen])
        shape = moved.shape[:3]
        every = noise[None, :, None].expand(shape[0], -1, shape[2], -1, -1, -1)
        pictures = chains.draw(every.flatten(0, 2), moved.flatten(0, 2))
        check_finite_pictures(pictures, self.word)
        return pictures.unflatten(0, shape)

    def _rows(
        self,
        chains: Chains,
        codes: Float[Tensor, "pictures code"],
        noise: Float[Tensor, "pictures 3 side side"],
        reader: CodeReader,
    ) -> list[Row]:
        """From the smallest to the largest scale, a mean over pictures."""
        pictures = self._draw(chains, codes, noise, [min(self.scales), max(self.scales)])
        low, high = (
            reader.read(chains, pictures.flatten(0, 2)).unflatten(0, pictures.shape[:3]).unbind(2)
        )
        change, names = (high - low) / reader.deviation, reader.names
        rows: list[Row] = []
        for row, (one, place) in enumerate(self.chosen):
            columns = torch.tensor([name == one.names[place] for name in names])
            target_change = float(change[row][:, columns].mean())
            others = float(change[row][:, ~columns].abs().mean())
            rows.append(
                {
                    "run": self.folder.resolve().name,
                    "attribute": one.names[place],
                    "entries": int((one.weight[place] != 0).sum()),
                    "moved": target_change,
                    "others_moved": others,
                    "moved_to_others": target_change / others if others else torch.nan,
                    "read_by": reader.kind,
                    "pictures": len(codes),
                }
            )
        return rows


def read_moved(path: Path) -> list[Row]:
    """The table of another run."""
    if not path.is_file():
        raise UserError(
            f"No file report.manipulate.beside={path}: it is the manipulate.csv of another run"
        )
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"run", "moved", "others_moved"} <= rows[0].keys():
        raise UserError(
            f"report.manipulate.beside={path} is no manipulate.csv: make one with report=manipulate"
        )
    numbers = ("moved", "others_moved", "moved_to_others")
    return [row | {key: float(row[key] or "nan") for key in numbers} for row in rows]


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
