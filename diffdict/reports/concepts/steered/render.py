"""The page of steered concepts as one HTML file, with as many pictures as its limit allows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from diffdict import files
from diffdict.errors import UserError
from diffdict.reports.concepts.document import (
    as_text,
    assemble,
    asset,
    assets,
    fact_text,
    inert,
    rounded,
)
from diffdict.reports.concepts.page.pack import picture_kind
from diffdict.reports.concepts.steered.content import (
    EffectFigures,
    LabelledFile,
    SteeredConcept,
    SteeredLatent,
    SteeringContent,
)

LIMIT = 30_000_000  # bytes that a browser opens at once, on a phone too
STYLES = ("page/page.css", "steered/steered.css")
SCRIPTS = ("page/parts.js", "steered/given.js", "page/names.js")
OWN = ("concepts", "strip", "singly", "begin")
MEASURES = ("kept", "error", "area", "outside", "rms", "p", "amount")


class WrittenStrips(NamedTuple):
    """What became of a page."""

    path: Path
    bytes: int
    seeds: int  # pictures that a concept shows at most
    bare: bool  # whether single latents lost theirs to keep the limit


def write_steering_page(
    content: SteeringContent,
    path: str | Path,
    names: Mapping[int, str] | None = None,
    limit: int = LIMIT,
) -> WrittenStrips:
    """The page at `path`; seeds, then pictures of single latents are left out above `limit`.

    `names`: those that people gave, by latent's number.
    """
    most = max((len(each.seeds) for each in content.concepts), default=0)
    plans = [(seeds, False) for seeds in range(most, 0, -1)] or [(0, False)]
    for seeds, bare in [*plans, (plans[-1][0], True)]:
        page = _page(chosen_pictures(content, seeds, bare), dict(names or {}), bare)
        if len(page) <= limit:
            files.write_atomic(path, page)
            return WrittenStrips(Path(path), len(page), seeds, bare)
    size, allowed = files.human_bytes(len(page)), files.human_bytes(limit)
    raise UserError(
        f"The page {path} would take {size} even with one seed a concept, its limit is {allowed}: "
        "report.steering.amounts= and windows= ask for fewer pictures, side= for smaller ones, "
        "megabytes= for a higher limit"
    )


def chosen_pictures(content: SteeringContent, seeds: int, bare: bool) -> SteeringContent:
    """The same with fewer seeds, and without pictures of single latents where `bare`."""
    concepts = [
        each._replace(
            seeds=each.seeds[:seeds],
            latents=[one._replace(on=[] if bare else one.on[:seeds]) for one in each.latents],
        )
        for each in content.concepts
    ]
    return content._replace(concepts=concepts)


def _page(content: SteeringContent, names: Mapping[int, str], bare: bool) -> bytes:
    places: dict[bytes, int] = {}  # every picture is in the page once
    figures = {
        "title": content.title,
        "key": content.key,
        "facts": [[name, fact_text(value)] for name, value in content.facts.items()],
        "amounts": [float(amount) for amount in content.amounts],
        "amount": float(content.amount),
        "windows": list(content.windows),
        "bare": bare,
        "concepts": [_concept(each, places) for each in content.concepts],
        "names": {str(number): name for number, name in names.items()},
    }
    texts = [as_text(data) for data in places]
    figures["pictures"] = [
        [picture_kind(data), len(text)] for data, text in zip(places, texts, strict=True)
    ]
    script = "\n".join([assets(SCRIPTS), *(asset("steered", f"{name}.js") for name in OWN)])
    data = {"figures": inert(figures), "pictures": "".join(texts)}
    template = asset("steered", "steered.html")
    return assemble(template, assets(STYLES), script, content.title, data)


def _concept(each: SteeredConcept, places: dict[bytes, int]) -> dict[str, object]:
    return {
        "name": each.name,
        "colour": [int(part) for part in each.colour],
        "effects": [_effect(one) for one in each.effects],
        "seeds": [
            {
                "name": seed.name,
                "off": _place_of(seed.off, places),
                "on": [[_place_of(one, places) for one in row] for row in seed.on],
            }
            for seed in each.seeds
        ],
        "latents": [_latent(one, places) for one in each.latents],
    }


def _effect(each: EffectFigures) -> dict[str, object]:
    figures = rounded(getattr(each, name) for name in MEASURES)
    cells = dict(zip(MEASURES, figures, strict=True))
    return {"edit": each.edit, "became": each.became or "", **cells}


def _latent(each: SteeredLatent, places: dict[bytes, int]) -> dict[str, object]:
    density, kept, rms = rounded((each.density, each.kept, each.rms))
    cells = {"number": int(each.number), "density": density, "kept": kept, "rms": rms}
    return {**cells, "on": [_place_of(one, places) for one in each.on]}


def _place_of(each: LabelledFile, places: dict[bytes, int]) -> Sequence[int]:
    """Where picture and labels are in the page."""
    return [places.setdefault(data, len(places)) for data in each]
