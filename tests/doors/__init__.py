"""A door opened in this process: quicker than a process of its own, and with the same words."""

import os
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
QUIET = ["trainer=cpu", "callbacks.progress=null"]
NET = [  # a network of milliseconds
    *("backbone.num_channels=32", "backbone.num_res_blocks=1", "backbone.channel_mult=[1,1]"),
    *("backbone.attention_resolutions=[]", "backbone.image_size=16", "backbone.checkpoint=null"),
]
FACES = [
    *("dataset.image_size=16", "dataset.train_pictures=4", "dataset.val_pictures=2"),
    "dataset.test_pictures=2",
]
SAE = [*QUIET, *NET, *FACES, "task=sae", "block=1", "sae.scale=4", "sae.k=2"]
TOKENS = ["data.batch_size=64", "data.val_pictures=1"]


class Said(NamedTuple):
    """How a door was closed."""

    code: int
    lines: list[str]  # of standard error


def open_door(door: str, words: list[str], folder: Path, capfd: pytest.CaptureFixture) -> Said:
    """`python DOOR.py WORDS` in this process and that folder: its exit code and what it said."""
    capfd.readouterr()
    code = enter(door, words, folder)
    return Said(code, capfd.readouterr().err.strip().splitlines())


def enter(door: str, words: list[str], folder: Path) -> int:
    """The same where nobody listens to what it says."""
    here, argv, environment = Path.cwd(), sys.argv, dict(os.environ)
    sys.argv = [str(ROOT / f"{door}.py"), *words]
    os.chdir(folder)
    code: object = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    finally:
        os.chdir(here)
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)
    return int(code or 0)
