"""`logger=wandb`: curves, and in the end tables, pictures and dictionary; offline at need."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from jaxtyping import UInt8
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from diffdict.reports.concepts.grid import COLUMNS, concept_rows
from diffdict.reports.runs.collected import columns_for_wandb
from diffdict.reports.runs.rows import Row, plain
from diffdict.sae.several import ALONE

HEAT = COLUMNS.index("1st latent")
PACKAGE = Path(__file__).parent.parent


class WandbRun(pl.loggers.WandbLogger):
    """A run that wandb shows. Where there is no login or no server it is kept on disk instead."""

    def __init__(
        self,
        project: str = "diffdict",
        save_dir: str = ".",
        *,
        entity: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        group: str | None = None,
        offline: bool = False,
        init_timeout: float | int = 30,
        finish_timeout: float | int = 300,
    ) -> None:
        """Seconds to wait for a server at first, and in the end for what is not uploaded yet."""
        limits = {"init_timeout": init_timeout, "finish_timeout": finish_timeout}
        shown = {"entity": entity, "tags": list(tags), "group": group}
        super().__init__(name, save_dir, project=project, offline=offline, settings=limits, **shown)

    @property
    @rank_zero_experiment
    def experiment(self) -> object:
        """wandb's own run, begun when it is first asked for."""
        if self._experiment is None:
            self._begin()
        return self._experiment

    def _begin(self) -> None:
        """With the state of the code; offline where no run can be begun at the server."""
        import wandb

        self._wandb_init["config"] = {"git": git_state(PACKAGE)}
        if self._offline:
            self._wandb_init["mode"] = "offline"
        self._offline = False  # else Lightning sets WANDB_MODE, for all later jobs too
        try:
            with _nobody_to_ask():
                _ = super().experiment
        except wandb.Error as error:
            self._wandb_init["mode"] = "offline"
            _ = super().experiment
            reason = str(error).splitlines()[0].rstrip(".")
            print(
                f"wandb is not reached ({reason}): this run is kept on disk, show it later by "
                f"wandb sync {self._experiment.settings.sync_dir}",
                file=sys.stderr,
            )

    @rank_zero_only
    def keep_run(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """What an ended run has left: tables, figures, dictionary, and whose features it saw."""
        import wandb

        try:
            self._keep_tables(trainer, module)
            folder = Path(trainer.default_root_dir)
            for path in sorted([*folder.glob("grid*.png"), *folder.glob("grid*/*.png")]):
                self.log_image(f"figures/{path.stem}", [str(path)])
            self._keep_dictionary(folder / "dictionary")
            self._keep_stores(trainer.datamodule)
        except wandb.Error as error:
            print(f"wandb did not take all of this run ({error}): see its folder", file=sys.stderr)

    def _keep_tables(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Each as a table; that of the classes with a picture in each line."""
        import wandb

        tables = module.tables() if hasattr(module, "tables") else {}
        for name, rows in tables.items():
            columns = columns_for_wandb([plain(row) for row in rows])
            drawn = class_pictures(module, trainer.datamodule) if name == "classes" else {}
            if drawn:
                found = [drawn.get(_shown(row)) for row in rows]
                columns["picture"] = [None if one is None else wandb.Image(one) for one in found]
                captions = [" ".join(filter(None, key)) for key in drawn]
                self.log_image("concepts", list(drawn.values()), caption=captions)
            lines = [list(line) for line in zip(*columns.values(), strict=True)]
            self.log_table(name, list(columns), lines)

    def _keep_dictionary(self, folder: Path) -> None:
        """The exported weights, from where they lie."""
        import wandb

        if folder.is_dir():
            artifact = wandb.Artifact(f"dictionary-{self.experiment.id}", "dictionary")
            artifact.add_dir(str(folder), skip_cache=True, policy="immutable")  # without a copy
            self.experiment.log_artifact(artifact)

    def _keep_stores(self, data: pl.LightningDataModule | None) -> None:
        """Where the features lie and what they are; nothing of them is uploaded."""
        import wandb

        opened = data.origin.opened if hasattr(data, "origin") else {}
        for split, source in opened.items():
            if not hasattr(source, "store"):
                continue
            store, path = source.store, source.store.path.absolute()
            known = {"path": str(path), "identity": store.metadata["store"], **store.identity}
            artifact = wandb.Artifact(f"features-{split}", "features", metadata=plain(known))
            artifact.add_reference((path / "store.json").as_uri())
            self.experiment.log_artifact(artifact)


def class_pictures(
    module: pl.LightningModule, data: pl.LightningDataModule
) -> dict[tuple[str | None, str], UInt8[np.ndarray, "_ _ 3"]]:
    """By dictionary and class a test picture, with where the class's best latent is counted."""
    drawn = {}
    for name, findings in getattr(module, "findings", {}).items():
        sae = module.judged[name].to(findings.thresholds.device)  # Lightning has moved it away
        for row in concept_rows(sae, findings, data, None, 1):
            cells = row.groups[0]
            drawn[None if name == ALONE else name, row.name] = cells[min(HEAT, len(cells) - 1)]
    return drawn


def _shown(row: Row) -> tuple[str | None, str]:
    return row.get("dictionary"), row["class"]


def git_state(folder: Path) -> Mapping[str, str | bool] | None:
    """The commit of the code in this folder, and whether it was changed since; None without git."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", "__init__.py")  # not a checkout that only surrounds it
        changed = ask("status", "--porcelain", "--untracked-files=no")
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None


@contextmanager
def _nobody_to_ask() -> Iterator[None]:
    """A run without a login does not wait for somebody to type one."""
    before = sys.stdin
    with open(os.devnull) as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = before
