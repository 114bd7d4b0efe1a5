"""`diffdict extract|train|evaluate|info|verify|push|pull`: the verbs of the installed command."""

import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from diffdict.cli.paths import PACKAGE
from diffdict.errors import UserError, one_line

DOORS = ("extract", "train", "evaluate")
TAKES = {"info": "one PATH", "verify": "one PATH", "push": "a PATH and hf://USER/NAME"}
TAKES["pull"] = "hf://datasets/USER/NAME and a FOLDER"
USAGE = """diffdict: what does a diffusion model know, and where in it?

  diffdict extract  …    data from a trained network: feature stores, samples
  diffdict train    …    a trained module
  diffdict evaluate …    numbers, pictures, pages
  diffdict info PATH     what is in a feature store or a checkpoint
  diffdict verify PATH   every bit of it against its checksums
  diffdict push PATH hf://USER/NAME licence=…    a run's dictionary, or features, onto the hub
  diffdict pull hf://datasets/USER/NAME FOLDER   features from there, where they stopped

Each of the first three takes Hydra overrides; `diffdict train --help` lists all choices."""


def main() -> None:
    """The installed command."""
    verb, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if verb in DOORS:
        packaged = PACKAGE / "doors" / f"{verb}.py"
        script = packaged if packaged.exists() else PACKAGE.parent / f"{verb}.py"
        sys.argv = [str(script), *rest]  # what a DDP child runs again
        runpy.run_path(str(script), run_name="__main__")
    elif verb in ("", "-h", "--help"):
        print(USAGE)
    else:
        _say(verb if verb in TAKES else "diffdict", partial(_answer, verb, rest))


def _answer(verb: str, words: list[str]) -> str:
    """What a verb says that opens no door."""
    if verb not in TAKES:
        verbs = ", ".join([*DOORS, *TAKES])
        raise UserError(f"{verb} is none of its verbs: {verbs}; diffdict --help tells them")
    if verb in ("info", "verify") and len(words) == 1:
        return _look(verb, words[0])
    if verb in ("push", "pull") and len(words) >= 2:
        return _exchange(verb, *words)
    raise UserError(f"diffdict {verb} takes {TAKES[verb]}, got {' '.join(words) or 'nothing'}")


def _say(verb: str, answer: Callable[[], str]) -> None:
    """What a verb answers; a mistake is one line and exit code 2."""
    try:
        print(answer())
    except UserError as mistake:
        print(f"{verb}: {one_line(mistake)}", file=sys.stderr)
        sys.exit(2)


def _look(verb: str, path: str) -> str:
    """`info` or `verify` of a path."""
    from diffdict.run import info

    return getattr(info, verb)(Path(path))


def _exchange(verb: str, source: str, target: str, *words: str) -> str:
    """`push` or `pull`; behind its two places `push` takes KEY=VALUE."""
    if wrong := [word for word in words if verb == "pull" or "=" not in word]:
        takes = "an address and a folder" if verb == "pull" else "KEY=VALUE behind the address"
        raise UserError(f"{wrong[0]} has no place here: diffdict {verb} takes {takes}")
    if verb == "pull":
        from diffdict.run.hub.pull import pull

        return pull(source, target)
    from diffdict.run.hub.push import push

    return push(source, target, dict(word.split("=", 1) for word in words))


if __name__ == "__main__":
    main()
