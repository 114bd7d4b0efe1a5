"""One HTML file out of concepts: nothing in it is fetched, and nothing in the data is markup."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, SupportsInt

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
from diffdict.reports.concepts.page.content import Class, PageContent
from diffdict.reports.concepts.page.pack import Packed, mask_bytes, pack, picture_kind

LIMIT = 30_000_000  # bytes that a browser opens at once, on a phone too
DIGITS = 8  # a latent's length among the figures, at most
STYLES = ("page/page.css", "page/views.css", "page/switched.css")
SCRIPTS = (
    *("parts", "data", "heat", "names", "switched"),
    *("list", "classes", "histogram", "latent", "start"),
)
FIGURES = ("iou_train", "iou_test", "iwm", "precision", "random", "channel")


class Written(NamedTuple):
    """What became of a page."""

    path: Path
    bytes: int
    top: int  # pictures that a latent shows at most
    bare: int  # latents whose pictures were left out to keep the limit


def write_page(
    concepts: PageContent,
    path: str | Path,
    names: Mapping[int, str] | None = None,
    limit: int = LIMIT,
) -> Written:
    """The page at `path`; top pictures are left out where it would pass `limit` bytes.

    `names`: those that people gave, by latent's number.
    """
    _check(concepts)
    names, texts = dict(names or {}), _picture_texts(concepts)
    figures = _figures(concepts, names, texts)
    nothing = Packed([""] * len(concepts.latents), 0, 0)
    room = limit - len(_page(figures, texts, nothing)) - DIGITS * len(concepts.latents)
    packed = pack(concepts, room, set(names))
    page = _page(figures, texts, packed)
    if len(page) > limit:
        size, most = files.human_bytes(len(page)), files.human_bytes(limit)
        raise UserError(
            f"The page {path} would take {size} even without top pictures, its limit is {most}: "
            f"give fewer or smaller pictures, fewer latents or a higher limit"
        )
    files.write_atomic(path, page)
    return Written(Path(path), len(page), packed.top, packed.bare)


def _page(figures: dict[str, object], texts: list[tuple[str, str]], packed: Packed) -> bytes:
    script = assets([f"page/{name}.js" for name in SCRIPTS])
    lengths = [len(text) for text in packed.texts]
    figures = {**figures, "top": packed.top, "bare": packed.bare, "lengths": lengths}
    data = {
        "figures": inert(figures),
        "pictures": "".join(text for pair in texts for text in pair),
        "details": "".join(packed.texts),
    }
    template = asset("page", "page.html")
    return assemble(template, assets(STYLES), script, str(figures["title"]), data)


def _figures(
    concepts: PageContent, names: Mapping[int, str], texts: list[tuple[str, str]]
) -> dict[str, object]:
    """All but the bytes, as the page's data.js reads it."""
    latents, maps = concepts.latents, [top.map for each in concepts.latents for top in each.top]
    return {
        "title": concepts.title,
        "key": concepts.key,
        "facts": [[name, fact_text(value)] for name, value in concepts.facts.items()],
        "edges": rounded(concepts.edges),
        "grid": maps[0].shape if maps else (1, 1),
        "topWanted": max((len(latent.top) for latent in latents), default=0),
        "classes": [_class(each) for each in concepts.classes],
        "mean": _mean(concepts.classes),
        "latents": {
            "number": [int(latent.number) for latent in latents],
            "density": rounded(latent.density for latent in latents),
            "mean": rounded(latent.mean for latent in latents),
            "bestClass": [_place(latent.best_class) for latent in latents],
            "iouTrain": rounded(latent.iou_train for latent in latents),
            "iouTest": rounded(latent.iou_test for latent in latents),
            **_effects(concepts),
        },
        "switched": _switched(concepts),
        "pictures": [
            [picture.name, picture_kind(picture.data), len(data), len(mask)]
            for picture, (data, mask) in zip(concepts.pictures, texts, strict=True)
        ],
        "names": {str(number): name for number, name in names.items()},
    }


def _effects(concepts: PageContent) -> dict[str, list]:
    """What became of each latent in drawing, where it was switched on."""
    if concepts.switched is None:
        return {}
    each = concepts.switched.latents
    columns = {
        "rise": [one.rise for one in each],
        "riseNull": [one.rise_null for one in each],
        "p": [one.p for one in each],
        "rank": [one.rank for one in each],
        "area": [one.area for one in each],
        "areaNull": [one.area_null for one in each],
        "pixels": [one.pixels for one in each],
        "pixelsNull": [one.pixels_null for one in each],
    }
    return {name: rounded(values) for name, values in columns.items()} | {
        "rises": [bool(one.rises) for one in each]
    }


def _switched(concepts: PageContent) -> dict[str, object] | None:
    """Their samples, as places in the pictures."""
    if concepts.switched is None:
        return None
    return {
        "of": int(concepts.switched.of),
        "pairs": [[list(pair) for pair in one.pairs] for one in concepts.switched.latents],
        "random": [list(pair) for pair in concepts.switched.random],
    }


def _class(each: Class) -> dict[str, object]:
    figures = zip(FIGURES, rounded(getattr(each, name) for name in FIGURES), strict=True)
    colour = [int(part) for part in each.colour]
    facts = {"name": each.name, "colour": colour, "latent": _place(each.latent)}
    return {**facts, **dict(figures), "absent": bool(each.absent)}


def _mean(classes: Sequence[Class]) -> dict[str, float | None]:
    """Over the classes that the test pictures show."""
    mean = {}
    for name in FIGURES:
        values = rounded(getattr(each, name) for each in classes if not each.absent)
        numbers = [value for value in values if value is not None]
        mean[name] = sum(numbers) / len(numbers) if numbers else None
    return mean


def _picture_texts(concepts: PageContent) -> list[tuple[str, str]]:
    """Every picture and its mask as base64, an absent mask as nothing."""
    return [
        (as_text(picture.data), "" if picture.mask is None else as_text(mask_bytes(picture.mask)))
        for picture in concepts.pictures
    ]


def _check(concepts: PageContent) -> None:
    """What would make the page lie is the caller's fault and no user's."""
    numbers = {latent.number for latent in concepts.latents}
    if len(numbers) != len(concepts.latents):
        raise ValueError("two latents have the same number")
    shapes = {top.map.shape for latent in concepts.latents for top in latent.top}
    if len(shapes) > 1:
        raise ValueError(f"all maps of a page have one shape, got {sorted(shapes)}")
    for each in concepts.classes:
        if each.latent is not None and each.latent not in numbers:
            raise ValueError(f"class {each.name!r}: no latent {each.latent}")
    switched = concepts.switched
    if switched is not None and len(switched.latents) != len(concepts.latents):
        raise ValueError("what became of latents is said of each of them, or of none")
    for latent in concepts.latents:
        if latent.best_class is not None and not 0 <= latent.best_class < len(concepts.classes):
            raise ValueError(f"latent {latent.number}: no class {latent.best_class}")
        if len(latent.histogram) != len(concepts.edges) - 1:
            raise ValueError(f"latent {latent.number}: {len(latent.histogram)} bins in histogram")
        if not all(0 <= top.picture < len(concepts.pictures) for top in latent.top):
            raise ValueError(f"latent {latent.number}: a picture that is not there")


def _place(value: SupportsInt | None) -> int | None:
    return None if value is None else int(value)
