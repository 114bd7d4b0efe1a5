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
from diffdict.reports.codes.lines import PictureLine, draw_lines
from diffdict.reports.codes.parts import AskedParts, CodeSlice, code_slices, random_entries
from diffdict.reports.codes.slice_effects import (
    ReadPairs,
    effect_rows,
    pair_differences,
    slice_effect,
)
from diffdict.results.inputs.directions import Directions, open_directions
from diffdict.results.tables import Row
from diffdict.seeds import permutation

NOISES = ("own", "slerp")


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

    With `probe` a table over many pairs says of each part and attribute how far the drawn pictures
    went, beside as many entries drawn from the whole code (`SliceEffect`).
    """

    word = "counterfactual"

    def __init__(
        self,
        *,
        pairs: Sequence[Sequence[int]] = ((0, 1),),
        segments: AskedParts = None,
        alphas: Sequence[float | int] = (0, 0.25, 0.5, 0.75, 1),
        noise: str = "own",
        probe: str | None = None,
        latents: str | None = None,
        measured: int = 16,
        seed: int = 0,
        **sheet: object,
    ) -> None:
        """`segments`: [first, end) of the segments, or `stages`; None: all stages.

        `noise`: own, so that the slice alone changes; slerp: as published, all of the noise goes
        over too. `probe`: what task=direction learned of all attributes. It also reads as many
        pairs drawn from the split as `measured` says.
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
        self.segments, self.noise, self.seed = segments, noise, seed
        self.measured = 0 if probe is None else measured
        self.alphas = list(map(float, alphas))
        self.reader = None if probe is None else open_directions(probe, latents)
        self.drawn_pairs: list[tuple[int, int]] = []
        self.pictures = [index for pair in self.pairs for index in pair]

    def check(self, pdae: Pdae) -> None:
        """Parts that the code has."""
        code_slices(pdae, self.segments, self.word)

    def check_directions(self, pdae: Pdae, sha256: str) -> None:
        """A probe of these codes."""
        if self.reader is not None:
            self.reader.check(pdae, pdae.shapes["code"][0], sha256)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The pairs that are only measured are drawn from those that there are."""
        super().setup(trainer, pl_module, stage)
        order = permutation(len(self.shown), self.seed).tolist()
        self.drawn_pairs = list(zip(order[::2], order[1::2], strict=False))[: self.measured]
        self.pictures = [i for pair in self.pairs + self.drawn_pairs for i in pair]

    def lines(self, pdae: Pdae) -> list[CounterfactualLine]:
        """Those of the sheet: two of each part and pair."""
        own = []
        for part in code_slices(pdae, self.segments, self.word):
            entries = torch.arange(part.entries.start, part.entries.stop)
            for pair in self.pairs:
                first, second = self.places(pair)
                own.append(CounterfactualLine(first, first, second, part, entries))
                own.append(CounterfactualLine(second, first, second, part, entries))
        return own

    def sheet(
        self, chains: Chains, images: Float[Tensor, "n 3 side side"]
    ) -> tuple[Image.Image, list[Row]]:
        """All chains in as few batches as they fill."""
        codes = chains.codes(images)
        noise = chains.invert(images, codes)
        lines = self.lines(chains.net.pdae)
        drawn = self._draw(chains, codes, noise, lines, self.alphas)
        figure = draw_lines(
            [
                self._line(images, line, drawn[row], self._words(chains, drawn[row]))
                for row, line in enumerate(lines)
            ]
        )
        return figure, [] if self.reader is None else self._rows(chains, codes, noise)

    def _draw(
        self,
        chains: Chains,
        codes: Float[Tensor, "n code"],
        noise: Float[Tensor, "n 3 side side"],
        lines: Sequence[CounterfactualLine],
        alphas: Sequence[float],
    ) -> Float[Tensor, "lines alphas 3 side side"]:
        """The pictures of these lines at these shares."""
        told = torch.cat([exchange_slice(codes, line, alphas) for line in lines])
        starts = torch.cat([self._starts(noise, line, alphas) for line in lines])
        drawn = chains.draw(starts, told)
        check_finite_pictures(drawn, self.word)
        return drawn.unflatten(0, (len(lines), len(alphas)))

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

    def _words(self, chains: Chains, drawn: Float[Tensor, "alphas 3 side side"]) -> list[str]:
        """Beneath each picture its share, and the attribute that the probe is surest of."""
        words = [f"{alpha:g}" for alpha in self.alphas]
        if self.reader is None:
            return words
        scores = self.reader.scores(chains.codes(drawn.clamp(-1, 1)))
        surest = [self.reader.names[place] for place in scores.argmax(1).tolist()]
        return [f"{word} {name}"[:20] for word, name in zip(words, surest, strict=True)]

    def _line(
        self,
        images: Float[Tensor, "n 3 side side"],
        line: CounterfactualLine,
        drawn: Float[Tensor, "alphas 3 side side"],
        words: Sequence[str],
    ) -> PictureLine:
        """Between the picture it is of and the one the slice comes from or leaves to."""
        other = line.end if line.of == line.begin else line.begin
        way = "comes" if line.of == line.begin else "leaves"
        pictures = torch.cat([images[[line.of]], drawn, images[[other]]])
        return PictureLine(pictures, [f"{line.part.name} {way}", *words, "the other"])

    def _rows(
        self, chains: Chains, codes: Float[Tensor, "n code"], noise: Float[Tensor, "n 3 side side"]
    ) -> list[Row]:
        """All pairs, the slice of the second picture wholly in the first."""
        pairs = self.pairs + self.drawn_pairs
        first, second = (self.places([pair[side] for pair in pairs]) for side in (0, 1))
        read = probe_scores(self.reader, chains, chains.draw(noise, codes))
        begin, end = read[first], read[second]
        known = pair_differences(self.shown, pairs, self.reader, begin, end)
        told = ReadPairs(begin, end, *known, read.std(0))
        width, rows = codes.shape[1], []
        for place, part in enumerate(code_slices(chains.net.pdae, self.segments, self.word)):
            own = torch.arange(part.entries.start, part.entries.stop)
            effects = []
            for entries in (own, random_entries(width, part, self.seed + place)):
                lines = [
                    CounterfactualLine(a, a, b, part, entries)
                    for a, b in zip(first, second, strict=True)
                ]
                drawn = self._draw(chains, codes, noise, lines, [1.0])[:, 0]
                effects.append(slice_effect(told, probe_scores(self.reader, chains, drawn)))
            rows += effect_rows(part.name, len(own), self.reader.names, told, effects)
        return rows


def exchange_slice(
    codes: Float[Tensor, "n code"], line: CounterfactualLine, alphas: Sequence[float]
) -> Float[Tensor, "alphas code"]:
    """The code of a line at each share; at 0 and 1 the slice is exactly that of one picture."""
    told = codes[[line.of]].repeat(len(alphas), 1)
    entries = line.entries.to(codes.device)
    shares = torch.tensor(alphas, device=codes.device, dtype=codes.dtype)[:, None]
    told[:, entries] = torch.lerp(codes[line.begin, entries], codes[line.end, entries], shares)
    return told


def probe_scores(
    reader: Directions, chains: Chains, drawn: Float[Tensor, "n 3 side side"]
) -> Float[Tensor, "n attributes"]:
    """What a probe says of drawn pictures."""
    return reader.scores(chains.codes(drawn.clamp(-1, 1))).cpu()
