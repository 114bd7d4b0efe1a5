"""Turns errors of Hydra and our own into one line, if the user can correct their cause."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffdict.cli.paths import folder
from diffdict.errors import UserError, one_line

CUT = re.compile(r"(/\S+)/\w\w/\w+(?:\.main)?\.(?:so|cpp)\b")  # a file in torch's cache
MACHINE = ("trainer", "callbacks", "logger")  # built by Lightning, whose messages are passed on


def find_mistake(error: BaseException) -> str | None:
    """The user's mistake that caused an error, in one line; None if it is a bug."""
    from hydra.errors import HydraException, InstantiationException, OverrideParseException

    chain, cause = [], error
    while cause is not None:
        chain.append(cause)
        cause = cause.__cause__
    for link in chain:
        if isinstance(link, UserError):
            return one_line(link)
        if (cut := _cut_cache(link)) is not None:
            return cut
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


def _cut_cache(link: BaseException) -> str | None:
    """What a kill left half-written in torch's cache of compiled kernels, if this tells of it."""
    text = str(link)
    fails = type(link).__name__ == "CppCompileError" or "file too short" in text
    if not (fails or "invalid ELF header" in text) or (cached := CUT.search(text)) is None:
        return None
    return (
        f"torch.compile cannot use {cached[0]}: what was killed while it compiled leaves cut files "
        f"there. Remove torch's cache, {cached[1]}, and run the same command again; "
        "model.compile=false does without"
    )


def _config_mistake(error: BaseException, link: OmegaConfBaseException) -> str:
    """Describes a wrong key, value or interpolation, and lists the right keys."""
    text, parent = str(error).split("\n    full_key")[0], link.parent_node
    if not (OmegaConf.is_dict(parent) and link.full_key and link.key not in parent):
        return one_line(UserError(text))
    place, _, key = str(link.full_key).rpartition(".")
    if not place and key in _groups():
        return _elsewhere(key)
    if not place and key == "model":  # of evaluate.py without a task
        return (
            "model comes with the checkpoint or the task: +model.KEY=… changes what comes with "
            "ckpt_path=…, and task=NAME brings a model of its own"
        )
    keys = sorted(str(name) for name in parent if name != "_target_" and name != "_partial_")
    near = _near(key, keys if place else {*keys, *_groups()}, place) or "."
    whole = place or "the root"
    if not keys:  # of evaluate.py, whose checkpoint brings them
        return (
            f"{link.full_key}: {whole} comes with the checkpoint and has no keys here. Name it "
            f"whole, {whole}=NAME, and its keys, or add to what comes: +{link.full_key}=…"
        )
    return f"{link.full_key} is no key of {whole}{near} Keys of {whole}: {', '.join(keys)}"


def _near(word: str, names: Iterable[str], place: str = "") -> str:
    """Suggests the name that was probably meant."""
    spelt = {name.lower(): name for name in names}
    matches = difflib.get_close_matches(word.lower(), spelt, 1)
    return f". Did you mean {place}{'.' if place else ''}{spelt[matches[0]]}?" if matches else ""


def _groups() -> list[str]:
    return [path.name for path in Path(folder("conf")).iterdir() if path.is_dir()]


def _options(text: str) -> str:
    """Joins the lines of Hydra's message: options separated by commas, without its search path."""
    lines = text.split("\nConfig search path")[0].splitlines()
    words = [line.strip() for line in lines if line.strip() and not line.startswith("\t")]
    sentence = " ".join(words)
    options = [line.strip() for line in lines if line.startswith("\t")]
    if group := re.match(r"Could not override '([\w/]+)'. No match in the defaults list", sentence):
        return _elsewhere(group[1])
    wrong = re.search(r"Could not find '(?:.*/)?(.+?)'", sentence)
    near = _near(wrong[1], options) if wrong else ""
    return f"{sentence} {', '.join(options)}{near}".strip()


def _elsewhere(group: str) -> str:
    """Names the tasks that use a config group which this task does not use."""
    tasks = sorted(Path(folder("conf"), "task").glob("*.yaml"))
    choosing = [path.stem for path in tasks if f"/{group}:" in path.read_text(encoding="utf-8")]
    if choosing:
        tasks = " or task=".join(choosing)
        return f"{group} is chosen with task={tasks} alone: leave it out, or say task={choosing[0]}"
    near = _near(group, _groups()) or "."
    return f"{group} is no group of choices here{near} Groups: {', '.join(sorted(_groups()))}"
