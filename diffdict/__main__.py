"""`diffdict extract|train|evaluate|info|verify`: the verbs of the installed command."""

import runpy
import sys
from pathlib import Path

from diffdict.cli.paths import PACKAGE
from diffdict.errors import UserError, one_line

DOORS = ("extract", "train", "evaluate")
USAGE = """diffdict: what does a diffusion model know, and where in it?

  diffdict extract  …    data from a trained network: feature stores, samples
  diffdict train    …    a trained module
  diffdict evaluate …    numbers, pictures, pages
  diffdict info PATH     what is in a feature store or a checkpoint
  diffdict verify PATH   every bit of it against its checksums

Each of the first three takes Hydra overrides; `diffdict train --help` lists all choices."""


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
        from diffdict.run import info

        print(getattr(info, verb)(Path(path)))
    except UserError as mistake:
        print(f"{verb}: {one_line(mistake)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
