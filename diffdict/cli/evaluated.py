"""What evaluate.py works on."""

from omegaconf import DictConfig

from diffdict.errors import UserError
from diffdict.results.inputs.published_weights import PUBLISHED

# tasks without a checkpoint: evaluate.py runs them
MEASURED = (
    *("probe_sweep", "geometry", "doctor", "fid"),  # networks
    "faithfulness",  # samples
    *("substitution", "causality", "lifetimes", "screening", "alignment"),  # dictionaries
    "sparse_probe",
)


def subject(cfg: DictConfig) -> str:
    """What evaluate works on: exactly one of ckpt_path, runs and task."""
    from hydra.core.hydra_config import HydraConfig

    choices = HydraConfig.get().runtime.choices
    subjects = {"ckpt_path": cfg.ckpt_path, "runs": cfg.runs, "task": choices.get("task")}
    keys = [key for key, value in subjects.items() if value is not None]
    if len(keys) != 1:
        words = " and ".join(f"{key}={subjects[key]}" for key in keys) or "nothing"
        raise UserError(
            "evaluate works on exactly one of ckpt_path=outputs/…/last.ckpt, runs=multirun/… "
            f"(with report=heatmap, table or curve) and task={MEASURED[0]} (or {_published()}, of "
            f"what others have learned); it got {words}"
        )
    if cfg.picture is not None and keys != ["ckpt_path"]:
        raise UserError(
            f"picture={cfg.picture} shows what was learned, of one picture: it goes with "
            f"ckpt_path=outputs/…/last.ckpt, not with {keys[0]}={subjects[keys[0]]}"
        )
    if cfg.checkpoints is not None:  # typed, it has become a sweep before the config was composed
        raise UserError(
            f"checkpoints={cfg.checkpoints} stands in a config, and is heard where it is typed: "
            "python evaluate.py task=geometry backbone=… checkpoints=outputs/…"
        )
    overrides = HydraConfig.get().overrides.task
    network = next((word for word in overrides if word.startswith("backbone=")), None)
    if network is not None and keys == ["ckpt_path"]:
        raise UserError(
            f"{network} would not be heard: what was learned of one network is evaluated through "
            "it alone, and the checkpoint brings it. Leave it out"
        )
    if cfg.names is not None and not {"dashboard", "drawn", "steering"} & set(cfg.report or {}):
        raise UserError(
            f"names={cfg.names} are shown by a page of concepts: report=dashboard names=FILE, "
            "report=drawn of samples, or report=steering"
        )
    task = subjects["task"]
    if keys == ["task"] and task not in MEASURED and not _has_published(cfg, task):
        raise UserError(
            f"task={task} is judged by what it has learned: give ckpt_path=outputs/…/"
            f"last.ckpt instead, or what others have learned, {_published()}; on features alone "
            f"evaluate runs {' or '.join(f'task={task}' for task in MEASURED)}"
        )
    return keys[0]


def _published() -> str:
    return " or ".join(f"task={task} model.{key}=…" for task, key in PUBLISHED.items())


def _has_published(cfg: DictConfig, task: str) -> bool:
    """Whether the config names published weights for the task."""
    return task in PUBLISHED and cfg.model.get(PUBLISHED[task]) is not None
