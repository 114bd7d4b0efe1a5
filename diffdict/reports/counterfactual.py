"""`report=counterfactual`: a part of two pictures' codes exchanged, and nothing else (DiTi)."""

from collections.abc import Sequence
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffdict.backbones.pdae import Pdae
from diffdict.diffusion.chains.interpolation import slerp
from diffdict.errors import UserError, at_least
from diffdict.reports.codes.base import CodeReport, check_finite_pictures, check_picture_pairs
from diffdict.reports.codes.chains import Chains
from diffdict.reports.codes.code_reader import RIDGE, CodeProbe, CodeReader
from diffdict.reports.codes.lines import PictureLine, draw_lines
from diffdict.reports.codes.parts import AskedParts, CodeSlice, code_slices, random_entries
from diffdict.reports.codes.slice_effects import (
    ReadPairs,
    effect_rows,
    pair_differences,
    slice_effect,
)
from diffdict.results.tables import Row
from diffdict.seeds import permutation

NOISES = ("own", "slerp")
WIDTH = 19  # letters beneath a picture


class CounterfactualLine(NamedTuple):
    """A picture whose slice goes from one picture's (share 0) to another's (1)."""

    of: int  # whose code the rest is, as a place among the pictures
    begin: int  # whose slice it begins with
    end: int
    part: CodeSlice
    entries: Tensor  # of the slice; drawn ones for the null


class Counterfactual(CodeReport):
    """Two lines a pair and part: the first picture with the slice of the second coming, and the
    second with the slice of the first leaving.

    Beneath each picture the attribute that moves most along its line, as a probe reads it. A table
    over many pairs says of each part and attribute how far the drawn pictures went, beside as many
    entries drawn from the whole code (`SliceEffect`).
    """

    word = "counterfactual"

    def __init__(
        self,
        *,
        pairs: Sequence[Sequence[int]] = ((0, 1),),
        segments: AskedParts = None,
        alphas: Sequence[float | int] = (0, 0.25, 0.5, 0.75, 1),
        noise: str = "own",
        probe: str | None = RIDGE,
        probe_pictures: int = 1500,
        latents: str | None = None,
        measured: int = 16,
        seed: int = 0,
        **sheet: object,
    ) -> None:
        """`segments`: [first, end) of the segments, or `stages`; None: all stages.

        `noise`: own, so that the slice alone changes; slerp: as published, all of the noise goes
        over too. `probe`: ridge, fitted on the codes of `probe_pictures` training pictures, or
        the file of task=direction with all attributes; None: none. It also reads as many pairs
        drawn from the split as `measured` says.
        """
        super().__init__(**sheet)
        self.pairs = check_picture_pairs(pairs, self.word)
        if noise not in NOISES:
            raise UserError(f"report.counterfactual.noise is own or slerp, got {noise!r}")
        if not alphas or not all(0 <= alpha <= 1 for alpha in alphas):
            raise UserError(
                f"report.counterfactual.alphas lie in [0, 1], got {list(alphas)}: [0,0.5,1]"
            )
        at_least(0, "report.counterfactual", measured=measured)
        at_least(4, "report.counterfactual", probe_pictures=probe_pictures)
        self.segments, self.noise, self.seed = segments, noise, seed
        self.measured = 0 if probe is None else measured
        self.alphas = list(map(float, alphas))
        self.probe = CodeProbe(probe, latents, probe_pictures)
        self.reader: CodeReader | None = None
        self.drawn_pairs: list[tuple[int, int]] = []
        self.pictures = [index for pair in self.pairs for index in pair]

    def check(self, pdae: Pdae) -> None:
        """Parts that the code has."""
        code_slices(pdae, self.segments, self.word)

    def check_directions(self, pdae: Pdae, sha256: str) -> None:
        """A probe of these codes."""
        if self.probe.directions is not None:
            self.probe.directions.check(pdae, pdae.shapes["code"][0], sha256)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The pairs that are only measured are drawn from those that there are."""
        super().setup(trainer, pl_module, stage)
        order = permutation(len(self.shown), self.seed).tolist()
        self.drawn_pairs = list(zip(order[::2], order[1::2], strict=False))[: self.measured]
        self.pictures = [i for pair in self.pairs + self.drawn_pairs for i in pair]

    def lines(self, pdae: Pdae) -> list[CounterfactualLine]:
        """Those of the sheet: two of each part and pair."""
        lines = []
        for part in code_slices(pdae, self.segments, self.word):
            entries = torch.arange(part.entries.start, part.entries.stop)
            for pair in self.pairs:
                first, second = self.places(pair)
                lines.append(CounterfactualLine(first, first, second, part, entries))
                lines.append(CounterfactualLine(second, first, second, part, entries))
        return lines

    def sheet(
        self, chains: Chains, images: Float[Tensor, "n 3 side side"]
    ) -> tuple[Image.Image, list[Row]]:
        """All chains in as few batches as they fill."""
        if self.reader is None:
            self.reader = self.probe.reader(chains, self.dataset(split="train"))
        codes = chains.codes(images)
        noise = chains.invert(images, codes)
        lines = self.lines(chains.net.pdae)
        pictures = self._draw(chains, codes, noise, lines, self.alphas)
        words = [
            self._captions(chains, images, *each) for each in zip(lines, pictures, strict=True)
        ]
        figure = draw_lines(
            [self._line(images, line, pictures[row], words[row]) for row, line in enumerate(lines)]
        )
        rows = self._rows(chains, codes, noise) if self.reader and self.measured else []
        return figure, rows

    def _draw(
        self,
        chains: Chains,
        codes: Float[Tensor, "n code"],
        noise: Float[Tensor, "n 3 side side"],
        lines: Sequence[CounterfactualLine],
        alphas: Sequence[float],
    ) -> Float[Tensor, "lines alphas 3 side side"]:
        """The pictures of these lines at these shares."""
        line_codes = torch.cat([exchange_slice(codes, line, alphas) for line in lines])
        starts = torch.cat([self._starts(noise, line, alphas) for line in lines])
        pictures = chains.draw(starts, line_codes)
        check_finite_pictures(pictures, self.word)
        return pictures.unflatten(0, (len(lines), len(alphas)))

    def _starts(
        self,
        noise: Float[Tensor, "n 3 side side"],
        line: CounterfactualLine,
        alphas: Sequence[float],
    ) -> Float[Tensor, "alphas 3 side side"]:
        """The start noise of a line."""
        if self.noise == "own":
            return noise[[line.of]].expand(len(alphas), -1, -1, -1)
        both = noise[[line.begin]], noise[[line.end]]
        return torch.cat([slerp(*both, alpha) for alpha in alphas])

    def _captions(
        self,
        chains: Chains,
        images: Float[Tensor, "n 3 side side"],
        line: CounterfactualLine,
        pictures: Float[Tensor, "alphas 3 side side"],
    ) -> list[str]:
        """The part and the way it goes, each share, and the attribute that moves most along it."""
        way, other = ("comes", line.end) if line.of == line.begin else ("leaves", line.begin)
        words = [f"{line.part.name} {way}", *(f"{alpha:g}" for alpha in self.alphas), "the other"]
        if self.reader is None:
            return words
        read = self.reader.read(chains, torch.cat([images[[line.of]], pictures, images[[other]]]))
        change = ((read[-2] - read[1]) / self.reader.deviation).abs()
        place = int(change.nan_to_num().argmax())
        values = [f"{value:.2f}" for value in read[:, place].tolist()]
        name = self.reader.names[place]
        words = [f"{word} {name}" for word in words[1:-1]]
        ends = f"{line.part.name} {way}", "other"
        each = zip((ends[0], *words, ends[1]), values, strict=True)
        return [f"{word[: WIDTH - len(value)]} {value}" for word, value in each]

    def _line(
        self,
        images: Float[Tensor, "n 3 side side"],
        line: CounterfactualLine,
        pictures: Float[Tensor, "alphas 3 side side"],
        captions: Sequence[str],
    ) -> PictureLine:
        """Between the picture it is of and the one the slice comes from or leaves to."""
        other = line.end if line.of == line.begin else line.begin
        return PictureLine(torch.cat([images[[line.of]], pictures, images[[other]]]), captions)

    def _rows(
        self, chains: Chains, codes: Float[Tensor, "n code"], noise: Float[Tensor, "n 3 side side"]
    ) -> list[Row]:
        """All pairs, the slice of the second picture wholly in the first."""
        pairs = self.pairs + self.drawn_pairs
        first, second = (self.places([pair[side] for pair in pairs]) for side in (0, 1))
        read = self.reader.read(chains, chains.draw(noise, codes))
        begin, end = read[first], read[second]
        differences = pair_differences(self.shown, pairs, self.reader, begin, end)
        readings = ReadPairs(begin, end, *differences, read.std(0))
        width, rows = codes.shape[1], []
        for place, part in enumerate(code_slices(chains.net.pdae, self.segments, self.word)):
            part_entries = torch.arange(part.entries.start, part.entries.stop)
            effects = []
            for entries in (part_entries, random_entries(width, part, self.seed + place)):
                lines = [
                    CounterfactualLine(a, a, b, part, entries)
                    for a, b in zip(first, second, strict=True)
                ]
                pictures = self._draw(chains, codes, noise, lines, [1.0])[:, 0]
                effects.append(slice_effect(readings, self.reader.read(chains, pictures)))
            rows += effect_rows(part.name, len(part_entries), self.reader.names, readings, effects)
        return rows


def exchange_slice(
    codes: Float[Tensor, "n code"], line: CounterfactualLine, alphas: Sequence[float]
) -> Float[Tensor, "alphas code"]:
    """The code of a line at each share; at 0 and 1 the slice is exactly that of one picture."""
    line_codes = codes[[line.of]].repeat(len(alphas), 1)
    entries = line.entries.to(codes.device)
    shares = torch.tensor(alphas, device=codes.device, dtype=codes.dtype)[:, None]
    line_codes[:, entries] = torch.lerp(
        codes[line.begin, entries], codes[line.end, entries], shares
    )
    return line_codes
