"""`report=counterfactual`: a part of two pictures' codes exchanged, and nothing else (DiTi)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffdict.backbones.pdae import Pdae
from diffdict.diffusion.interpolation import slerp
from diffdict.errors import UserError
from diffdict.reports.codes.base import CodeReport, check_finite_pictures, check_picture_pairs
from diffdict.reports.codes.chains import Chains
from diffdict.reports.codes.lines import PictureLine, draw_lines
from diffdict.reports.codes.parts import AskedParts, CodeSlice, code_slices, random_entries
from diffdict.results.directions import Directions, open_directions
from diffdict.results.tables import Row

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

    With `probe` the table says of each part and attribute how far the drawn pictures followed the
    other one's, as a share of what lies between the two reconstructions (1: all the way), beside as
    many entries drawn from the whole code.
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
        seed: int = 0,
        **sheet: object,
    ) -> None:
        """`segments`: [first, end) of the segments, or `stages`; None: all stages.

        `noise`: own, so that the slice alone changes; slerp: as published, all of the noise goes
        over too. `probe`: what task=direction learned of all attributes.
        """
        super().__init__(**sheet)
        self.pairs = check_picture_pairs(pairs, self.word)
        if noise not in NOISES:
            raise UserError(f"report.counterfactual.noise is own or slerp, got {noise!r}")
        if not alphas or not all(0 <= alpha <= 1 for alpha in alphas):
            raise UserError(
                f"report.counterfactual.alphas lie in [0, 1], got {list(alphas)}: [0,0.5,1]"
            )
        self.segments, self.noise, self.seed = segments, noise, seed
        self.alphas = list(map(float, alphas))
        self.reader = None if probe is None else open_directions(probe, latents)
        self.pictures = [index for pair in self.pairs for index in pair]

    def check(self, pdae: Pdae) -> None:
        """Parts that the code has, and a probe of it."""
        code_slices(pdae, self.segments, self.word)
        if self.reader is not None:
            self.reader.check(pdae, pdae.shapes["code"][0])

    def lines(self, pdae: Pdae) -> tuple[list[CounterfactualLine], list[CounterfactualLine]]:
        """Those of the sheet, and with a probe the null: first lines with random entries."""
        code, own, null = pdae.shapes["code"][0], [], []
        for place, part in enumerate(code_slices(pdae, self.segments, self.word)):
            entries = torch.arange(part.entries.start, part.entries.stop)
            drawn = random_entries(code, part, self.seed + place)
            for pair in self.pairs:
                first, second = self.places(pair)
                own.append(CounterfactualLine(first, first, second, part, entries))
                own.append(CounterfactualLine(second, first, second, part, entries))
                null.append(CounterfactualLine(first, first, second, part, drawn))
        return own, null if self.reader is not None else []

    def sheet(
        self, chains: Chains, images: Float[Tensor, "n 3 side side"]
    ) -> tuple[Image.Image, list[Row]]:
        """All chains in as few batches as they fill."""
        codes = chains.codes(images)
        noise = chains.invert(images, codes)
        shown, null = self.lines(chains.net.pdae)
        lines = shown + null
        told = torch.cat([exchange_slice(codes, line, self.alphas) for line in lines])
        starts = torch.cat([self._starts(noise, line) for line in lines])
        drawn = chains.draw(starts, told)
        check_finite_pictures(drawn, self.word)
        drawn = drawn.unflatten(0, (len(lines), len(self.alphas)))
        figure = draw_lines(
            [
                self._line(images, line, drawn[row], self._words(chains, drawn[row]))
                for row, line in enumerate(shown)
            ]
        )
        return figure, [] if self.reader is None else self._rows(chains, codes, noise, lines, drawn)

    def _starts(
        self, noise: Float[Tensor, "n 3 side side"], line: CounterfactualLine
    ) -> Float[Tensor, "alphas 3 side side"]:
        """The start noise of a line."""
        if self.noise == "own":
            return noise[[line.of]].expand(len(self.alphas), -1, -1, -1)
        both = noise[[line.begin]], noise[[line.end]]
        return torch.cat([slerp(*both, alpha) for alpha in self.alphas])

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
        self,
        chains: Chains,
        codes: Float[Tensor, "n code"],
        noise: Float[Tensor, "n 3 side side"],
        lines: Sequence[CounterfactualLine],
        drawn: Float[Tensor, "lines alphas 3 side side"],
    ) -> list[Row]:
        """Over all pairs: the slope of what was read at the largest share on the whole way."""
        back = chains.draw(noise, codes)
        ends = probe_scores(self.reader, chains, back)
        last = max(range(len(self.alphas)), key=self.alphas.__getitem__)
        scores = probe_scores(self.reader, chains, drawn[:, last])
        names = list(dict.fromkeys(line.part.name for line in lines))
        rows: list[Row] = []
        for name in names:
            own = [i for i, line in enumerate(lines) if line.part.name == name]
            first = [i for i in own if lines[i].of == lines[i].begin]
            half = len(first) // 2  # the slice's lines stand before those of random entries
            followed, null = (
                follow(ends, scores[chosen], [lines[i] for i in chosen])
                for chosen in (first[:half], first[half:])
            )
            entries = lines[own[0]].entries.numel()
            for column, attribute in enumerate(self.reader.names):
                rows.append(
                    {
                        "part": name,
                        "entries": entries,
                        "attribute": attribute,
                        "followed": float(followed[column]),
                        "random_entries": float(null[column]),
                        "pairs": half,
                    }
                )
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


def follow(
    ends: Float[Tensor, "pictures attributes"],
    scores: Float[Tensor, "lines attributes"],
    lines: Sequence[CounterfactualLine],
) -> Float[Tensor, " attributes"]:
    """By least squares over pairs, the share of the way from one picture's scores to another's."""
    begin = ends[[line.of for line in lines]]
    way = ends[[line.end for line in lines]] - begin
    return ((scores - begin) * way).sum(0) / way.square().sum(0)
