"""Some classes of all: looked at alone, the others in grey."""

from collections.abc import Sequence

from jaxtyping import Bool, Int
from torch import Tensor, isin, tensor

from diffdict.errors import UserError

OTHERS, GREY = "other classes", (196, 194, 188)


def labels_of(names: Sequence[str], known: Sequence[str]) -> list[int]:
    """The labels of the classes that `report.grid.classes` names."""
    if isinstance(names, int | float | str) or not names:
        raise UserError(f"report.grid.classes is a list of names, got {names!r}: [{names or 'a'}]")
    if not known:
        raise UserError(
            f"report.grid.classes chooses among classes, and these pictures have none (got "
            f"{','.join(map(str, names))}): leave it out"
        )
    for name in names:
        if name not in known:
            raise UserError(f"report.grid.classes has {name!r}, classes are {', '.join(known)}")
    return [list(known).index(name) for name in names]


def among(labels: Int[Tensor, "*n"], chosen: Sequence[int]) -> Bool[Tensor, "*n"]:
    """Where a label is one of these."""
    return isin(labels, tensor(list(chosen), device=labels.device))


def muted(
    palette: Sequence[Sequence[int]], chosen: Sequence[int] | None
) -> Sequence[Sequence[int]]:
    """Colours in which only these labels have their own."""
    if chosen is None:
        return palette
    return [colour if label in chosen else GREY for label, colour in enumerate(palette)]


def legend_of(
    names: Sequence[str], palette: Sequence[Sequence[int]], chosen: Sequence[int] | None
) -> tuple[Sequence[str], Sequence[Sequence[int]]]:
    """What the colours are called: these, in their order, and the rest as one."""
    if chosen is None:
        return names, palette
    return [*(names[i] for i in chosen), OTHERS], [*(palette[i] for i in chosen), GREY]
