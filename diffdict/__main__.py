"""`diffdict extract|train|evaluate|info|verify`: finds conf/, opens the door, one-line mistakes."""

import atexit
import difflib
import functools
import os
import re
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffdict import files, jobs
from diffdict.errors import UserError, one_line

PACKAGE = Path(__file__).parent
DOORS = ("extract", "train", "evaluate")
MACHINE = ("trainer", "callbacks", "logger")  # built by others, who say themselves what is wrong
USAGE = """diffdict: what does a diffusion model know, and where in it?

  diffdict extract  …    data from a trained network: feature stores, samples
  diffdict train    …    a trained module
  diffdict evaluate …    numbers, pictures, pages
  diffdict info PATH     what is in a feature store or a checkpoint
  diffdict verify PATH   every bit of it against its checksums

Each of the first three takes Hydra overrides; `diffdict train --help` lists all choices."""


def folder(name: str) -> str:
    """conf/ or sweeps/: inside the installed package, else beside it in a checkout."""
    packaged = PACKAGE / name
    return str(packaged if packaged.is_dir() else PACKAGE.parent / name)


OmegaConf.register_new_resolver("diffdict.folder", folder, replace=True)


def door(task: Callable[[DictConfig], float | None]) -> Callable[[], None]:
    """A function of a composed config becomes a command: Hydra in front, mistakes in one line."""
    import hydra  # not for `info` and `verify`, which need no config

    parent, script = os.getpid(), os.path.abspath(sys.argv[0])
    failures, started = [], []

    @functools.wraps(task)
    def job(cfg: DictConfig) -> float | None:
        started.append(True)
        jobs.check_study(cfg.get("optimized_metric"))
        try:
            with _own_folder():
                found = _found_before(task.__name__, cfg.get("ckpt_path"))
                if found is not None:
                    return jobs.optimized(found, cfg.optimized_metric)
                _point_children_at_this_job(script)
                return task(cfg)
        except Exception as error:
            mistake = _mistake(error)
            if mistake is None:
                raise
            print(f"{task.__name__}: {mistake}", file=sys.stderr, flush=True)
            if os.getpid() != parent:  # a launcher's worker: whoever waits for it has to know
                raise UserError(mistake) from None
            failures.append(mistake)  # a sweep goes on with its next job
            return None

    def open_door() -> None:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and the sentence is ours
        try:
            sys.argv[1:] = _flags_first(sys.argv[1:])
            _leave_folder_to_first_rank()
            hydra.main(version_base="1.3", config_path=folder("conf"), config_name=task.__name__)(
                job
            )()
        except KeyboardInterrupt as stop:
            print(f"\n{one_line(stop)}", file=sys.stderr)
            sys.exit(130)
        except Exception as error:
            mistake = _mistake(error)
            if mistake is None and isinstance(error, OSError) and not started:
                mistake = (
                    f"The output folder cannot be made: {error.strerror} ({error.filename}). "
                    "Choose another with hydra.run.dir=… or hydra.sweep.dir=…"
                )
            if mistake is None and isinstance(error, ValueError) and not started:
                typed = f"{' '.join(sys.argv[1:])} cannot be read ({one_line(error)})"
                mistake = f"{typed}: each word is KEY=VALUE, GROUP=OPTION or ~KEY"
            if mistake is None:
                raise
            print(f"{task.__name__}: {mistake}", file=sys.stderr)
            sys.exit(2)
        if failures:
            sys.exit(2)

    return open_door


def _flags_first(words: list[str]) -> list[str]:
    """The same with all flags in front, or words behind one were lost; unknown ones are refused."""
    from hydra._internal.utils import get_args_parser

    def refuse(what: str) -> NoReturn:
        raise UserError(f"{what}: --hydra-help lists the flags")

    parser = get_args_parser()
    parser.error = refuse  # not eight lines of usage
    said, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        raise UserError(
            f"{unknown[0]} is no flag: settings are words without dashes, such as seed=0, which "
            "--help lists, and --hydra-help the flags"
        )
    if said.info:  # takes the word behind it for its own
        return words
    return [word for word in words if word not in said.overrides] + said.overrides


def _leave_folder_to_first_rank() -> None:
    """Of the ranks that torchrun or SLURM started only the first writes into the output folder."""
    if int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) > 0:
        own = tempfile.mkdtemp(prefix="diffdict-rank-")
        atexit.register(shutil.rmtree, own, ignore_errors=True)
        sys.argv += [f"hydra.run.dir={own}", "hydra.output_subdir=null"]


def _output_folder() -> str:
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.get().runtime.output_dir


def _is_first() -> bool:
    """Whether no other rank of this run has looked after its folder."""
    return not int(os.environ.get("LOCAL_RANK") or 0)


def _own_folder() -> AbstractContextManager[None]:
    """The output folder of this run alone; what Lightning starts shares it."""
    return files.alone(_output_folder()) if _is_first() else nullcontext()


def _found_before(door: str, ckpt_path: str | None) -> dict | None:
    """The results of this very job that are in its folder already, said in one line."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    cfg, folder = HydraConfig.get(), _output_folder()
    found = None
    if cfg.mode == RunMode.MULTIRUN:
        found = jobs.results_of(folder, cfg.overrides.task)
    elif door != "extract" and _is_first():
        found = jobs.of_one_run(folder, door, cfg.overrides.task, ckpt_path)
    if found is not None:
        print(f"{door}: {folder} has its results: left as it is", file=sys.stderr)
    return found


def _point_children_at_this_job(script: str) -> None:
    """A DDP child re-runs sys.argv, in this job's folder: with its words, never the sweep again."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import read_write

    cfg = HydraConfig.get()
    with read_write(cfg):
        cfg.run.dir = cfg.runtime.output_dir
    if cfg.mode == RunMode.MULTIRUN:
        sys.argv = [script, *cfg.overrides.task, "hydra.mode=RUN"]
        sys.modules["__main__"].__spec__ = None  # a launcher's worker is a module, the child is not


def _mistake(error: BaseException) -> str | None:
    """The user's mistake behind an error in one line; None when it is a bug."""
    from hydra.errors import HydraException, InstantiationException, OverrideParseException

    chain, cause = [], error
    while cause is not None:
        chain.append(cause)
        cause = cause.__cause__
    for link in chain:
        if isinstance(link, UserError):
            return one_line(link)
    if isinstance(error, InstantiationException):
        unknown = isinstance(chain[-1], TypeError) and "argument" in str(chain[-1])  # +key=value
        where = str(error).rpartition("full_key: ")[2].strip() or "config"
        machine = where.partition(".")[0] in MACHINE  # no GPU here, a word Lightning does not know
        refused = len(chain) == 1  # by Hydra itself: a target that runs commands, say
        return f"{one_line(chain[-1])} ({where})" if unknown or machine or refused else None
    for link in chain:
        if isinstance(link, OmegaConfBaseException):
            return _config_mistake(error, link)
    if isinstance(error, OverrideParseException):
        why = one_line(error).partition(" See https")[0].removeprefix("Error parsing override ")
        return (
            f"{error.override!r} cannot be read ({why}): it is KEY=VALUE, in quotes '…' for a shell"
        )
    if isinstance(error, HydraException):
        return _options(str(error))
    if isinstance(error, ValueError) and "--multirun, --cfg" in str(error):
        return "-m runs a sweep and --cfg shows one run's config: leave one of them out"
    if isinstance(error, ValueError) and "No trials are completed" in str(error):
        return "No trial has given its number, so none is the best: what is said above it says why"
    return None


def _config_mistake(error: BaseException, link: OmegaConfBaseException) -> str:
    """A wrong key, value or interpolation; the right keys beside it."""
    text, parent = str(error).split("\n    full_key")[0], link.parent_node
    if not (OmegaConf.is_dict(parent) and link.full_key and link.key not in parent):
        return one_line(UserError(text))
    place, _, key = str(link.full_key).rpartition(".")
    if not place and key in _groups():
        return _elsewhere(key)
    keys = sorted(str(name) for name in parent if name != "_target_" and name != "_partial_")
    near = _near(key, keys if place else {*keys, *_groups()}, place) or "."
    whole = place or "the root"
    return f"{link.full_key} is no key of {whole}{near} Keys of {whole}: {', '.join(keys)}"


def _near(word: str, known: Iterable[str], place: str = "") -> str:
    """What was probably meant."""
    spelt = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), spelt, 1)
    return f". Did you mean {place}{'.' if place else ''}{spelt[found[0]]}?" if found else ""


def _groups() -> list[str]:
    return [path.name for path in Path(folder("conf")).iterdir() if path.is_dir()]


def _options(text: str) -> str:
    """Hydra's several lines as one: options separated by commas, its search path left out."""
    lines = text.split("\nConfig search path")[0].splitlines()
    said = " ".join(line.strip() for line in lines if line.strip() and not line.startswith("\t"))
    options = [line.strip() for line in lines if line.startswith("\t")]
    if group := re.match(r"Could not override '([\w/]+)'. No match in the defaults list", said):
        return _elsewhere(group[1])
    wrong = re.search(r"Could not find '(?:.*/)?(.+?)'", said)
    near = _near(wrong[1], options) if wrong else ""
    return f"{said} {', '.join(options)}{near}".strip()


def _elsewhere(group: str) -> str:
    """A group that this task does not choose from, and the tasks that do."""
    tasks = sorted(Path(folder("conf"), "task").glob("*.yaml"))
    own = [path.stem for path in tasks if f"/{group}:" in path.read_text(encoding="utf-8")]
    if own:
        tasks = " or task=".join(own)
        return f"{group} is chosen with task={tasks} alone: leave it out, or say task={own[0]}"
    near = _near(group, _groups()) or "."
    return f"{group} is no group of choices here{near} Groups: {', '.join(sorted(_groups()))}"


def main() -> None:
    """The installed command."""
    verb, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if verb in DOORS:
        packaged = PACKAGE / "doors" / f"{verb}.py"
        script = packaged if packaged.exists() else PACKAGE.parent / f"{verb}.py"
        sys.argv = [str(script), *rest]  # what a DDP child runs again
        runpy.run_path(str(script), run_name="__main__")
    elif verb in ("info", "verify") and len(rest) == 1:
        _look(verb, rest[0])
    else:
        print(USAGE)
        sys.exit(0 if verb in ("", "-h", "--help") else 2)


def _look(verb: str, path: str) -> None:
    """`info` or `verify` of a path; a mistake is one line and exit code 2."""
    try:
        from diffdict import run

        print(getattr(run, verb)(Path(path)))
    except UserError as mistake:
        print(f"{verb}: {one_line(mistake)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
