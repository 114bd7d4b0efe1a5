"""`checkpoints=FOLDER`: a task that measures networks, at every checkpoint of a training in turn.

The command becomes a sweep over `backbone.checkpoint` before Hydra reads it: each job has a folder
named by its step, a job that has its results is left as it is, and one that fails leaves the
others alone. extract.py task=samples draws so from every checkpoint, into a folder a step; what was
drawn is measured by task=fid, whose sweep goes over those folders.
"""

from collections.abc import Mapping, Sequence
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
WEIGHTS, SAMPLES = "backbone.checkpoint", "samples"  # what is swept over
STEP_FOLDER = "step-{}"  # of the samples of a checkpoint

OmegaConf.register_new_resolver("diffdict.step", checkpoint_step, replace=True)


def sweep_over_checkpoints(door: str, words: Sequence[str]) -> list[str]:
    """The words of a command, where `checkpoints=FOLDER` becomes a sweep over its files."""
    matches = [word for word in words if word.lstrip("+").partition("=")[0] == KEY]
    if not matches or any(word.partition("=")[0] in LOOKS_ONLY for word in words):
        return list(words)
    folder, rest = _folder(matches[-1]), [word for word in words if word not in matches]
    if folder is None:
        return rest
    keys = dict(word.lstrip("+").partition("=")[::2] for word in rest)
    _check_task(door, folder, keys)
    every = checkpoints_of(folder)
    swept, values = WEIGHTS, list(map(str, every))
    if keys["task"] == "fid":
        swept, values = SAMPLES, _sample_folders(folder, keys.get(SAMPLES), every)
        rest = [word for word in rest if not word.startswith(f"{SAMPLES}=")]
    if door == "extract":
        place = keys.get("folder", "${paths.samples}/${backbone.name}")
        name = STEP_FOLDER.format(f"${{diffdict.step:${{{WEIGHTS}}}}}")
        rest = [word for word in rest if not word.startswith("folder=")]
        rest.append(f"folder='{place}/{name}'")
    sweep = f"{swept}={','.join(override('', value).lstrip('=') for value in values)}"
    if any(word in SWEEPS for word in rest):
        flags = [word for word in rest if word.startswith("-")]
        return [*flags, sweep, *(word for word in rest if word not in flags)]
    arguments = [word.replace("hydra.run.dir=", "hydra.sweep.dir=", 1) for word in rest]
    if not any(word.startswith("hydra.sweep.subdir=") for word in arguments):
        arguments.append(f"hydra.sweep.subdir='${{diffdict.step:${{{swept}}}}}'")
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


def _sample_folders(folder: str, samples: str | None, every: Sequence[Path]) -> list[str]:
    """Where the samples of each checkpoint lie."""
    if not samples:
        raise UserError(
            f"task=fid {KEY}={folder} measures what every checkpoint has drawn: draw it, python "
            f"extract.py task=samples {KEY}={folder} backbone=…, and name its folder, samples=…"
        )
    steps = map(checkpoint_step, every)
    return [str(Path(samples) / STEP_FOLDER.format(step)) for step in steps]


def _check_task(door: str, folder: str, keys: Mapping[str, str]) -> None:
    """Refuses what does not follow from a network's weights, and weights that were typed beside."""
    task, measures = keys.get("task"), door == "evaluate"
    if task not in (MEASURED if measures else ("samples",)):
        subjects = [f"{key}={keys[key]}" for key in ("ckpt_path", "runs", "task") if key in keys]
        tasks = " or ".join(f"task={task}" for task in MEASURED)
        goes = f"a task that measures a network, {tasks}" if measures else "task=samples"
        raise UserError(f"{KEY}={folder} goes with {goes}; it got {command(*subjects) or 'none'}")
    if task != "fid" and WEIGHTS in keys:
        raise UserError(
            f"{KEY}={folder} says which weights are {'measured' if measures else 'drawn from'}, "
            f"and so does {WEIGHTS}={keys[WEIGHTS]}: leave one of them out"
        )
