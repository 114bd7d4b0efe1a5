"""What a run found, kept for sweeps, tables and pages: results.json, and its tables as CSV."""

import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

from diffdict import __version__, files
from diffdict.results.folders import FORMAT, RESULTS
from diffdict.results.tables import HasTables, Row, as_csv

FACTS = (  # of the data, what tells whether figures may be compared
    *("dataset", "dataset_hash", "split", "pictures", "image_size", "class_names"),
    *("backbone", "backbone_sha256", "d_in", "grid", "maps", "normalise", "drop_channels"),
)


@runtime_checkable
class KeepsRun(Protocol):
    """A logger that also shows what an ended run has left, as wandb's does."""

    def keep_run(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Its tables, figures and files."""


class KeepResults(pl.Callback):
    """`<run>/results.json`, and `<run>/<table>.csv` for each table that the task offers.

    Tables are those of a task that `HasTables`. The file is written once the run has ended well,
    after all else, so that where it stands everything does.
    """

    def __init__(
        self,
        door: str,
        task: str,
        overrides: Sequence[str] = (),
        choices: Mapping[str, str] = MappingProxyType({}),
        config: Mapping = MappingProxyType({}),
        facts: Mapping = MappingProxyType({}),
    ) -> None:
        """What was typed, the resolved choice that came of it, and what the data knew."""
        self.about = {"format": FORMAT, "door": door, "task": task, "overrides": list(overrides)}
        self.about |= {"choices": dict(choices), "config": dict(config)}
        self.about["facts"] = {name: facts[name] for name in FACTS if name in facts}
        self.learned: dict[str, Tensor | float] = {}
        self.began = time.perf_counter()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the training's last figures, which Lightning forgets when it begins to test."""
        self.learned |= trainer.callback_metrics

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        """A training that is resumed at its very end measures nothing more: figures travel."""
        logged = {**self.learned, **trainer.callback_metrics}
        checkpoint["figures"] = {name: float(value) for name, value in logged.items()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        """Those that the training had until then."""
        self.learned |= checkpoint.get("figures", {})

    def figures(self, trainer: pl.Trainer) -> dict[str, float]:
        """Those of training, validation and test, by name."""
        logged = {**self.learned, **trainer.callback_metrics}
        return {name: float(value) for name, value in sorted(logged.items())}

    @rank_zero_only
    def write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """All of it, when the run is over."""
        tables = pl_module.tables() if isinstance(pl_module, HasTables) else {}
        about = {**self.about, "metrics": self.figures(trainer)}
        write_results(trainer.default_root_dir, about, tables, time.perf_counter() - self.began)


def write_results(
    folder: str | Path, about: Mapping, tables: Mapping[str, Sequence[Row]], seconds: float
) -> None:
    """The tables first, and results.json when they stand."""
    for name, rows in tables.items():
        files.write_atomic(Path(folder) / f"{name}.csv", as_csv(rows).encode())
    whole = {
        **about,
        "tables": {name: list(map(dict, rows)) for name, rows in tables.items()},
        "seconds": round(seconds, 3),
        "versions": {
            "diffdict": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }
    text = files.json_text(whole, indent=1, ensure_ascii=False)
    files.write_atomic(Path(folder) / RESULTS, f"{text}\n".encode())
