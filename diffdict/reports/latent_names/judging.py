"""How well names foretell their latents on held-out pictures, beside the names of other latents."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from diffdict.metrics.concepts.detection import Detection, detect, detection_auc
from diffdict.reports.drawing.canvas import write_png
from diffdict.reports.drawing.colours import as_bytes
from diffdict.reports.latent_names.crops import Crop, Cutter
from diffdict.reports.latent_names.exchange import Question
from diffdict.reports.latent_names.judges import Scorer
from diffdict.results.tables import Row
from diffdict.seeds import permutation

ASKED_BESIDE = 8  # names of other latents that someone elsewhere judges beside a latent's own

Cases = Mapping[int, Sequence[Crop]]  # by latent, active and silent ones


class Judgement(NamedTuple):
    """A latent's cases, and what was said of names for them."""

    active: Tensor
    texts: Sequence[str]
    scores: Tensor  # [cases, texts]


def choose_names(
    candidates: Mapping[int, Sequence[str]], cases: Cases, cut: Cutter, scorer: Scorer | None
) -> dict[int, str]:
    """Of several candidates the one that best foretells the latent on pictures to name by."""
    names = {}
    for latent, some in candidates.items():
        names[latent] = some[0]
        latent_cases = cases.get(latent)
        if scorer is not None and len(some) > 1 and latent_cases:
            scores = scorer(cut_all(cut, latent_cases), list(some)).cpu()
            names[latent] = some[int(detection_auc(scores, activity_of(latent_cases)).argmax())]
    return names


def judge(
    names: Mapping[int, str], cases: Cases, cut: Cutter, scorer: Scorer
) -> dict[int, Judgement]:
    """Every name, asked of every latent's held-out cases."""
    texts = sorted(set(names.values()))
    return {
        latent: Judgement(
            activity_of(cases[latent]), texts, scorer(cut_all(cut, cases[latent]), texts).cpu()
        )
        for latent in names
        if cases.get(latent)
    }


class Questionnaire:
    """The same for someone elsewhere: each case once, in an order that says nothing."""

    def __init__(self, names: Mapping[int, str], cases: Cases) -> None:
        self.cases = {latent: cases[latent] for latent in names if cases.get(latent)}
        self.texts = {latent: _texts_beside(latent, names) for latent in self.cases}
        every = [
            (latent, i)
            for latent, latent_cases in self.cases.items()
            for i in range(len(latent_cases))
        ]
        self.order = [every[i] for i in permutation(len(every), len(names)).tolist()]

    def questions(self) -> list[Question]:
        """As they are asked."""
        return [
            Question(f"questions/{number:05d}.png", self.texts[latent])
            for number, (latent, _) in enumerate(self.order)
        ]

    def write_crops(self, folder: Path, cut: Cutter) -> None:
        """The pictures that the questions name."""
        for question, (latent, i) in zip(self.questions(), self.order, strict=True):
            write_crop(cut, self.cases[latent][i], folder / question.crop)

    def judgements(self, scores: Tensor) -> dict[int, Judgement]:
        """The answers, in the order of the questions, a latent at a time."""
        rows = dict(zip(self.order, scores, strict=True))
        judgements = {}
        for latent, cases in self.cases.items():
            texts = self.texts[latent]
            answers = torch.stack([rows[latent, i] for i in range(len(cases))])[:, : len(texts)]
            judgements[latent] = Judgement(activity_of(cases), texts, answers)
        return judgements


def rows_of(
    names: Mapping[int, str], judgements: Mapping[int, Judgement], crops: Mapping[int, Sequence]
) -> list[Row]:
    """A row a latent; no figures where there were too few cases."""
    rows = []
    for latent, name in names.items():
        row = {"latent": latent, "name": name, "crops": len(crops.get(latent, ()))}
        judgement = judgements.get(latent)
        detection = None if judgement is None else _detection(name, judgement)
        row |= {"cases": 0 if judgement is None else len(judgement.active)}
        row |= dict.fromkeys(("auc", "others", "p")) if detection is None else detection._asdict()
        rows.append(row)
    return rows


def mean_detection(rows: Sequence[Row]) -> str:
    """The mean over latents, of their own names and of others'."""
    aucs = [row["auc"] for row in rows if row["auc"] is not None]
    others = [row["others"] for row in rows if row["others"] is not None]
    if not aucs:
        return f"{len(rows)} latents named, none with cases enough to judge a name by"
    beside = f", {math.fsum(others) / len(others):.3f} with another latent's" if others else ""
    return (
        f"{len(rows)} latents named; detection AUC {math.fsum(aucs) / len(aucs):.3f} with their "
        f"own name{beside} ({len(aucs)} latents)"
    )


def activity_of(cases: Sequence[Crop]) -> Tensor:
    """Which of them are active ones."""
    return torch.tensor([case.active for case in cases])


def cut_all(cut: Cutter, crops: Sequence[Crop]) -> Tensor:
    """The crops, one after the other."""
    return torch.stack([cut(crop) for crop in crops])


def write_crop(cut: Cutter, crop: Crop, path: Path) -> None:
    """One crop as a file."""
    write_png(Image.fromarray(as_bytes(cut(crop)[None])[0]), path)


def _detection(name: str, judgement: Judgement) -> Detection:
    others = [i for i, text in enumerate(judgement.texts) if text != name]
    return detect(judgement.scores, judgement.active, list(judgement.texts).index(name), others)


def _texts_beside(latent: int, names: Mapping[int, str]) -> list[str]:
    """A latent's name among some of the others', in an order that does not tell which."""
    others = sorted(set(names.values()) - {names[latent]})
    some = permutation(len(others), latent)[:ASKED_BESIDE].tolist()
    return sorted([names[latent], *(others[i] for i in some)])
