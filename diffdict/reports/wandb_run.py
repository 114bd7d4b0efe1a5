"""`logger=wandb`: curves, and in the end tables, pictures and dictionaries; offline at need."""

import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from jaxtyping import UInt8
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from diffdict import files
from diffdict.reports.concepts.class_figure import COLUMNS, concept_rows
from diffdict.reports.subjects import HasDictionaries, ReadsStores
from diffdict.reports.sweeps.collected import columns_for_wandb
from diffdict.reports.sweeps.points import Value, dictionaries_of, own_figures
from diffdict.results.extracted import extracted_by, totals
from diffdict.results.folders import read_results
from diffdict.results.naming import RunLabels, labels_of_dictionary, typed_keys
from diffdict.results.tables import HasTables, Row
from diffdict.sae.grid import ALONE

HEAT = COLUMNS.index("1st latent")
PACKAGE = Path(__file__).parent.parent
ClassPictures = Mapping[
    tuple[str | None, str], UInt8[np.ndarray, "_ _ 3"]
]  # by dictionary and class
BRIEF = {"console": "off", "silent": True, "x_disable_stats": True}  # of a run that is a summary


class WandbRun(pl.loggers.WandbLogger):
    """A run that wandb shows. Where there is no login or no server it is kept on disk instead.

    Of several dictionaries each has a run of its own, with the names that a single one's has.
    """

    def __init__(
        self,
        project: str = "diffdict",
        save_dir: str = ".",
        *,
        entity: str | None = None,
        name: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] = (),
        group: str | None = None,
        offline: bool = False,
        init_timeout: float | int = 30,
        finish_timeout: float | int = 300,
        labels: RunLabels = RunLabels(),  # noqa: B008 - immutable
    ) -> None:
        """Seconds to wait for a server at first, and in the end for what is not uploaded yet.

        `labels` stand for a name, job type and group that neither the config nor wandb's own
        variables say.
        """
        limits = {"init_timeout": init_timeout, "finish_timeout": finish_timeout}
        self.typed_name, self.began = name, time.perf_counter()
        shown = {
            "entity": entity,
            "tags": list(tags),
            "group": group or _unless("WANDB_RUN_GROUP", labels.group),
            "job_type": job_type or _unless("WANDB_JOB_TYPE", labels.job_type),
        }
        listed = name or _unless("WANDB_NAME", labels.name)
        super().__init__(
            listed, save_dir, project=project, offline=offline, settings=limits, **shown
        )
        del self._wandb_init["anonymous"]  # which wandb has given up, and warns of

    @property
    @rank_zero_experiment
    def experiment(self) -> object:
        """wandb's own run, begun when it is first asked for."""
        if self._experiment is None:
            self._wandb_init["config"] = {"git": git_state(PACKAGE)}
            if self._offline:
                self._wandb_init["mode"] = "offline"
            self._offline = False  # else Lightning sets WANDB_MODE, for all later jobs too
            parent = super()
            self._begin(lambda: parent.experiment)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, object], step: int | None = None) -> None:
        """As JSON knows them: what is no number is shown as missing."""
        super().log_metrics(files.as_json_values(metrics), step)

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, object]) -> None:
        """The same of settings."""
        super().log_hyperparams(files.as_json_values(params))

    def _begin(self, begin: Callable[[], object]) -> object:
        """What `begin` begins; offline where no run can be begun at the server."""
        import wandb

        try:
            with _nobody_to_ask():
                return begin()
        except wandb.Error as error:
            self._wandb_init["mode"] = "offline"
            run = begin()
            reason = str(error).splitlines()[0].rstrip(".")
            print(
                f"wandb is not reached ({reason}): this run is kept on disk, show it later by "
                f"wandb sync {run.settings.sync_dir}",
                file=sys.stderr,
            )
            return run

    @rank_zero_only
    def keep_run(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """What an ended run has left: tables, figures, dictionaries, and whose features it saw."""
        import wandb

        folder = Path(trainer.default_root_dir)
        try:
            self._keep_extracted(extracted_by([module, *trainer.callbacks]))
            tables = module.tables() if isinstance(module, HasTables) else {}
            pictures = class_pictures(module, trainer.datamodule) if "classes" in tables else {}
            for name, rows in tables.items():
                self.experiment.log(wandb_table(name, rows, pictures if name == "classes" else {}))
            for path in sorted([*folder.glob("grid*.png"), *folder.glob("grid*/*.png")]):
                self.log_image(f"figures/{path.stem}", [str(path)])
            self._keep_dictionary(folder / "dictionary")
            self._keep_stores(trainer.datamodule)
            self._keep_each(folder, tables.get("classes", []), pictures)
        except wandb.Error as error:
            print(f"wandb did not take all of this run ({error}): see its folder", file=sys.stderr)

    def _keep_extracted(self, rows: Sequence[Row]) -> None:
        """What was made for others to learn from: how much, in which time, and where it lies."""
        import wandb

        if not rows:
            return
        seconds = round(time.perf_counter() - self.began, 3)
        self.experiment.log(
            {**totals(rows), "seconds": seconds, **wandb_table("extracted", rows, {})}
        )
        for row in rows:
            if "split" in row:
                artifact = wandb.Artifact(f"features-{row['split']}", "features", metadata=row)
                artifact.add_reference((Path(row["path"]) / "store.json").as_uri())
                self.experiment.log_artifact(artifact)

    def _keep_each(self, folder: Path, classes: Sequence[Row], pictures: ClassPictures) -> None:
        """Of several dictionaries a run each: its config, its figures, its classes."""
        results = read_results(folder)
        if results is None or results["task"] != "sae":
            return
        keys, metrics, names = typed_keys(results["overrides"]), results["metrics"], []
        for name, settings in dictionaries_of(metrics).items():
            config = own_config(self.experiment.config.as_dict(), settings)
            labels = labels_of_dictionary(config, [*keys, *settings], self.experiment.group)
            if self.typed_name is not None:
                labels = labels._replace(name=f"{self.typed_name} {name}")
            run = self._begin_another(run_id(folder, name), config, labels)
            run.log(own_figures(metrics, name) | own_classes(classes, pictures, name))
            run.finish()
            names.append(labels.name)
        if names:
            print(f"wandb: a run each, in group {labels.group}: {', '.join(names)}")

    def _begin_another(self, own_id: str, config: Mapping, labels: RunLabels) -> object:
        """A run beside this one, where this one is kept; the same again by the same id."""
        import wandb

        def begin() -> object:
            settings = {**self._wandb_init["settings"], **BRIEF}
            options = {"id": own_id, "reinit": "create_new", "config": config, "settings": settings}
            return wandb.init(**{**self._wandb_init, **labels._asdict(), **options})

        return self._begin(begin)

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

        stores = data.stores() if isinstance(data, ReadsStores) else {}
        for split, store in stores.items():
            path = store.path.absolute()
            facts = {"path": str(path), "identity": store.metadata["store"], **store.identity}
            artifact = wandb.Artifact(
                f"features-{split}", "features", metadata=files.as_json_values(facts)
            )
            artifact.add_reference((path / "store.json").as_uri())
            self.experiment.log_artifact(artifact)


def class_pictures(module: pl.LightningModule, data: pl.LightningDataModule) -> ClassPictures:
    """By dictionary and class a test picture, with where the class's best latent is counted."""
    pictures = {}
    measured = module.dictionaries() if isinstance(module, HasDictionaries) else {}
    for name, (sae, findings) in measured.items():
        if findings is None:
            continue
        sae = sae.to(findings.thresholds.device)  # Lightning has moved it away
        for row in concept_rows(sae, findings, data, None, 1):
            cells = row.groups[0]
            pictures[None if name == ALONE else name, row.name] = cells[min(HEAT, len(cells) - 1)]
    return pictures


def wandb_table(name: str, rows: Sequence[Row], drawn: ClassPictures) -> dict[str, object]:
    """A table as wandb logs it; what is drawn stands in its lines, and side by side."""
    import wandb

    columns = columns_for_wandb([files.as_json_values(row) for row in rows])
    logged = {}
    if drawn:
        images = [drawn.get((row.get("dictionary"), row["class"])) for row in rows]
        columns["picture"] = [None if one is None else wandb.Image(one) for one in images]
        captions = {key: " ".join(filter(None, key)) for key in drawn}
        logged["concepts"] = [wandb.Image(drawn[key], caption=captions[key]) for key in drawn]
    lines = [list(line) for line in zip(*columns.values(), strict=True)]
    return {name: wandb.Table(columns=list(columns), data=lines), **logged}


def own_config(config: Mapping, settings: Mapping[str, Value]) -> dict:
    """The config of one of several dictionaries: its own number where there is a list."""
    result = deepcopy(dict(config))
    for key, value in settings.items():
        setting = key.removeprefix("sae.")
        for node in (result["sae"], result["model"]["sae"]):
            node[setting] = value
    return result


def own_classes(classes: Sequence[Row], drawn: ClassPictures, name: str) -> dict[str, object]:
    """The table of one of several dictionaries, as that of a single one is logged."""
    rows = [
        {key: cell for key, cell in row.items() if key != "dictionary"}
        for row in classes
        if row["dictionary"] == name
    ]
    pictures = {(None, one): image for (whose, one), image in drawn.items() if whose == name}
    return wandb_table("classes", rows, pictures) if rows else {}


def run_id(folder: Path, name: str) -> str:
    """The same for the same dictionary of the same folder, so that none is listed twice."""
    words = f"{platform.node()}:{folder.absolute()}:{name}"
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _unless(variable: str, label: str | None) -> str | None:
    """A label, unless wandb's own variable says it."""
    return None if variable in os.environ else label


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
