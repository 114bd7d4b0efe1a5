"""`checkpoints=FOLDER`: a task that measures networks, at every checkpoint of a training in turn.

The command becomes a sweep over `backbone.checkpoint` before Hydra reads it: each job has a folder
named by its step, a job that has its results is left as it is, and one that fails leaves the
others alone.
"""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from diffdict.cli.evaluated import MEASURED
from diffdict.errors import UserError, command, override
from diffdict.results.folders import checkpoint_step

KEY = "checkpoints"
SWEEPS = ("-m", "--multirun")
LOOKS_ONLY = (  # flags under which nothing runs, so that nothing is swept
    *("-h", "--help", "--hydra-help", "--version", "-i", "--info", "-c", "--cfg"),
    *("-sc", "--shell-completion", "--shell_completion"),
)
SUBDIR = "'${diffdict.step:${backbone.checkpoint}}'"

OmegaConf.register_new_resolver("diffdict.step", checkpoint_step, replace=True)


def sweep_over_checkpoints(words: Sequence[str]) -> list[str]:
    """The words of a command, where `checkpoints=FOLDER` becomes a sweep over its files."""
    typed = [word for word in words if word.lstrip("+").partition("=")[0] == KEY]
    if not typed or any(word.partition("=")[0] in LOOKS_ONLY for word in words):
        return list(words)
    folder, rest = _folder(typed[-1]), [word for word in words if word not in typed]
    if folder is None:
        return rest
    _check_task(folder, rest)
    every = checkpoints_of(folder)
    values = ",".join(override("", str(path)).lstrip("=") for path in every)
    sweep = f"backbone.checkpoint={values}"
    if any(word in SWEEPS for word in rest):
        flags = [word for word in rest if word.startswith("-")]
        return [*flags, sweep, *(word for word in rest if word not in flags)]
    arguments = [word.replace("hydra.run.dir=", "hydra.sweep.dir=", 1) for word in rest]
    if not any(word.startswith("hydra.sweep.subdir=") for word in arguments):
        arguments.append(f"hydra.sweep.subdir={SUBDIR}")
    return [SWEEPS[0], *arguments, sweep]


def checkpoints_of(folder: str) -> list[Path]:
    """The checkpoints that a training has kept by their steps, the earliest first."""
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise UserError(
            f"{KEY}={folder} is the folder of a training, and there is none: "
            "the one that train.py was given with hydra.run.dir="
        )
    steps = {path: checkpoint_step(path) for path in place.glob("step=*.ckpt")}
    every = sorted((path for path, step in steps.items() if step is not None), key=steps.get)
    if not every:
        raise UserError(
            f"{KEY}={folder} holds no step=….ckpt of a training: those are kept with "
            "callbacks.checkpoint.every_n_train_steps=1000 callbacks.checkpoint.save_top_k=-1; "
            "one file is measured with backbone.checkpoint="
        )
    return every


def _folder(word: str) -> str | None:
    """What was typed behind `checkpoints=`, by Hydra's rules; None for null."""
    try:
        value = OverridesParser.create().parse_override(word).value()
    except HydraException:  # a path that Hydra would have quoted
        value = word.partition("=")[2]
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{KEY} is the folder of one training, got {value}: {KEY}=outputs/ddae")
    return value


def _check_task(folder: str, words: Sequence[str]) -> None:
    """Refuses what is not measured of a network's weights, and weights that were typed beside."""
    keys = dict(word.lstrip("+").partition("=")[::2] for word in words)
    if keys.get("task") not in MEASURED:
        came = [f"{key}={keys[key]}" for key in ("ckpt_path", "runs", "task") if key in keys]
        raise UserError(
            f"{KEY}={folder} goes with a task that measures a network, "
            f"{' or '.join(f'task={task}' for task in MEASURED)}; it got "
            f"{command(*came) or 'none'}"
        )
    if "backbone.checkpoint" in keys:
        raise UserError(
            f"{KEY}={folder} says which weights are measured, and so does backbone.checkpoint="
            f"{keys['backbone.checkpoint']}: leave one of them out"
        )
