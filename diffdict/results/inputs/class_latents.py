"""Which latents are which class, as a test of task=sae left it in tables beside a dictionary."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.errors import UserError
from diffdict.results.folders import RESULTS, read_results
from diffdict.results.tables import Row

NUMBERS = ", or say latents=[…]"


class ClassLatents:
    """Each class's latents by excess and by IoU, as the test of task=sae has found them."""

    def __init__(self, path: str | Path, name: str | None = None, tables: str | None = None):
        """`tables`: the folder of that test; None: the dictionary's run, or a folder in it."""
        self.path = path
        self.rows: dict[str, Row] = {}
        self.latents: dict[int, Row] = {}
        for folder in _places(Path(path)) if tables is None else [Path(tables)]:
            contents = (read_results(folder) or {}).get("tables", {})
            rows = [row for row in contents.get("classes", ()) if _is_of(row, name)]
            if rows and "excess" in rows[0]:
                latents = [row for row in contents["latents"] if _is_of(row, name)]
                self.rows = {row["class"]: row for row in rows}
                self.latents = {row["latent"]: row for row in latents}
                return
        if tables is not None:
            raise UserError(
                f"tables={tables} has no classes with their latents: it is the folder of "
                "python evaluate.py ckpt_path=…/last.ckpt, on labelled pictures"
            )

    def require(self, instead: str = "") -> None:
        """Refuses to speak of classes that no test has found; `instead`: what else may be said."""
        if not self.rows:
            raise UserError(
                f"Beside dictionary={self.path} no test says which latents are which class: "
                "python evaluate.py ckpt_path=…/last.ckpt on labelled pictures, and name its "
                f"folder with tables={instead}"
            )

    def of_class(self, concept: str, most: int | None = None) -> list[int]:
        """The class's latents of the largest excess; None: all that are known, eight at most."""
        self.require(NUMBERS)
        if concept not in self.rows:
            raise UserError(
                f"concept={concept} is no class of the dictionary's test: {', '.join(self.rows)}"
            )
        latents = list(map(int, str(self.rows[concept]["excess"] or "").split()))
        if not latents:
            raise UserError(
                f"concept={concept} has no latents of its own: no pixel of it was in the training "
                "pictures, or nothing is stronger there; choose another class"
            )
        if most is not None and not 1 <= most <= len(latents):
            raise UserError(
                f"most counts a class's latents, {len(latents)} are known of {concept}, got {most}:"
                f" most={len(latents)}"
            )
        return latents[:most]

    def by_class(self, most: int = 1) -> dict[int, list[str]]:
        """The first so many latents of every class that has some, each with its classes."""
        self.require(NUMBERS)
        classes: dict[int, list[str]] = {}
        for concept, row in self.rows.items():
            for latent in list(map(int, str(row["excess"] or "").split()))[:most]:
                classes.setdefault(latent, []).append(concept)
        return classes

    def density(self, latents: int) -> Float[Tensor, " latents"] | None:
        """Each latent's share of the test's tokens; None without a test."""
        if not self.latents:
            return None
        return torch.tensor([float(self.latents[i]["density"] or 0) for i in range(latents)])

    def units(self, latents: Sequence[int]) -> list[float] | None:
        """The mean activation of each where it is active; None without a test."""
        if not self.latents:
            return None
        return [float(self.latents[i]["activation"] or 0) for i in latents]


def _is_of(row: Row, name: str | None) -> bool:
    """Whether a row is of this dictionary of a run."""
    return row.get("dictionary") in (None, name)


def _places(path: Path) -> list[Path]:
    """Where a test may have left its tables: the run's folder, then what lies in it, new first."""
    folder = path.absolute() if path.is_dir() else path.absolute().parent
    for parent in (folder, *list(folder.parents)[:2]):  # dictionary/NAME, checkpoints/NAME
        if (parent / "last.ckpt").is_file() and parent.parent.name != "checkpoints":
            folder = parent
            break
    inner = sorted(folder.glob(f"*/{RESULTS}"), key=lambda file: file.stat().st_mtime)
    return [folder, *(file.parent for file in reversed(inner))]
