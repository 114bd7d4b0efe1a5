"""What a run is called where many are shown together: its name, its kind of job, its group."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from diffdict.results.folders import Finished
from diffdict.results.tables import format_cell

LOOKS = (
    "features",
    "fid",
    "fine_tuning",
    "geometry",
    "linear_probe",
    "pixel_mlp",
    "probe_sweep",
)  # tasks on features
NAMED = re.compile(r"model\..*|sae\..*|seed|data\.sae|noise\.\w+")  # settings, where typed
SIZES = ("sae.scale", "sae.latents")  # are in the name already
FEW = "dataset.train_pictures"  # what is learned from few labels is named by how many
USUAL = "TopK"  # the dictionary that needs no name
DICTIONARY = "dictionary"  # the job type of one of several that were learned side by side
LONGEST = 128  # letters that wandb takes


class RunLabels(NamedTuple):
    """By what wandb lists a run; None leaves it to wandb."""

    name: str | None = None
    job_type: str | None = None
    group: str | None = None


def labels_of_run(about: Mapping, folder: str | Path) -> RunLabels:
    """Of a run whose `about` has door, task, overrides and config, as results.json has them."""
    name = run_name(about["task"], about["config"], typed_keys(about["overrides"]))
    return RunLabels(name, f"{about['door']} {about['task']}", folder_group(folder))


def labels_of_dictionary(config: Mapping, typed: Iterable[str], group: str | None) -> RunLabels:
    """Of one of several dictionaries; `config` is its own, a number for every list."""
    return RunLabels(run_name("sae", config, typed), DICTIONARY, group)


def labels_of_report(words: Iterable[str], runs: Sequence[Finished]) -> RunLabels:
    """Of a report on finished runs, which joins their group where they have one in common."""
    report, groups = " ".join(words), {recorded_group(run) for run in runs} - {None}
    group = groups.pop() if len(groups) == 1 else None
    name = f"{report} of {group}" if group else report
    return RunLabels(name[:LONGEST], f"evaluate {report}", group)


def folder_group(folder: str | Path) -> str:
    """The end of a folder's path: multirun/2026-01-31/12-00-00."""
    return "/".join(Path(folder).parts[-3:])[-LONGEST:]


def recorded_by(run: Finished) -> Mapping | None:
    """The settings of logger=wandb with which a run was recorded; None where it was not."""
    loggers = run.results["config"].get("logger")
    settings = loggers.get("wandb") if isinstance(loggers, Mapping) else None
    return settings if isinstance(settings, Mapping) else None


def recorded_group(run: Finished) -> str | None:
    """The group that wandb shows a run in; None where it was not recorded."""
    settings = recorded_by(run)
    if settings is None:
        return None
    return settings.get("group") or folder_group(run.folder.absolute())


def run_name(task: str, config: Mapping, typed: Iterable[str] = ()) -> str:
    """`t150 b6 ×20`: where a task looks, how large what it learns is, and what else was typed."""
    names = {part: (config.get(part) or {}).get("name") for part in ("dataset", "backbone")}
    if task == "sae":
        words = [short_place(config), size(config["sae"])]
    elif task in LOOKS:
        words = [names["dataset"], short_place(config)]
    else:
        words = [names["backbone" if task == "samples" else "dataset"]]
    for key in dict.fromkeys(typed):
        tells = NAMED.fullmatch(key) or (key == FEW and task in LOOKS)
        if tells and key not in SIZES and (value := _value(config, key)) is not None:
            words.append(f"{key.rpartition('.')[2]}={format_cell(value)}")
    return " ".join(filter(None, words))[:LONGEST] or task


def short_place(config: Mapping) -> str:
    """t50,150 b6; a block that has a name is said by it, what was left open is left out."""
    timestep, block = config.get("timestep"), config.get("block")
    blocks = block if isinstance(block, list) else [block]
    numbers = all(isinstance(one, int) for one in blocks)
    at = None if timestep is None else f"t{format_cell(timestep)}"
    block_text = None if block is None else f"{'b' if numbers else ''}{format_cell(blocks)}"
    return " ".join(filter(None, [at, block_text]))


def size(sae: Mapping) -> str:
    """×20, or Gated ×20; 512 latents where they were counted."""
    kind = sae["_target_"].rpartition(".")[2]
    latents, kind = sae.get("latents"), "" if kind == USUAL else f"{kind} "
    size = format_cell(sae.get("scale") if latents is None else latents)
    counted = f"×{size}" if latents is None else f"{size} latents"
    return kind + counted


def typed_keys(overrides: Iterable[str]) -> list[str]:
    """The settings that were typed, each once."""
    return list(dict.fromkeys(word.lstrip("+~").partition("=")[0] for word in overrides))


def _value(config: Mapping, key: str) -> object:
    """What a config has at model.optimizer.lr; None where it has nothing, or more settings."""
    value: object = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if isinstance(value, Mapping) else value
