"""What guards the other tests guards them: against what is left behind, and when one fails."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.processes import PATIENCE

ROOT = Path(__file__).parent.parent
LONG = "\n".join(f"NUMBERS_{i} = [{i}, {i} + 1, {i} + 2, {i} + 3]" for i in range(500))
TESTS = '''
import ast, gc, os, random, signal, sys, threading

import numpy as np
import pytest
import torch


def parses(phase, info):  # as a destructor that fails has its traceback printed
    ast.parse("1 + 2")


def test_that_fails():
    gc.callbacks.append(parses)
    assert "apples" == "pears"


ROLLS = []


@pytest.mark.parametrize("again", [False, True])
def test_that_rolls_dice(again):
    ROLLS.append((torch.rand(1).item(), np.random.rand(), random.random()))
    assert ROLLS[0] == ROLLS[-1]


LEFT = {
    "os.environ": lambda: os.environ.update(LEFT="1"),
    "sys.argv": lambda: sys.argv.append("left"),
    "the folder": lambda: os.chdir("/"),
    "the recursion limit": lambda: sys.setrecursionlimit(2000),
    "handlers of signals": lambda: signal.signal(signal.SIGINT, print),
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "threads": lambda: threading.Thread(target=threading.main_thread().join).start(),
}


@pytest.mark.parametrize("what", LEFT)
def test_that_leaves(what):
    LEFT[what]()


def test_that_is_innocent():
    """Though all of that is still there."""


class Fails:
    def __del__(self):
        raise ValueError("a destructor")


def test_with_a_destructor_that_fails():
    Fails()
'''


def test_each_fault_is_laid_on_the_test_that_made_it(tmp_path):
    (tmp_path / "test_it.py").write_text(LONG + TESTS)
    house = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    own = ["-p", "tests.isolation", "-p", "no:cacheprovider", "-p", "no:randomly"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *house, *own, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    said = ended.stdout
    assert "SystemError" not in said, said + ended.stderr
    assert "AssertionError: assert 'apples' == 'pears'" in said, said
    assert "ValueError: a destructor" in said, said
    assert re.findall(r"^E +AssertionError: left behind: ([^:]+): ", said, flags=re.M) == [
        "os.environ",
        "sys.argv",
        "the folder",
        "the recursion limit",
        "handlers of signals",
        "torch's default dtype",
        "threads",
    ], said
    failed = re.findall(r"^(?:FAILED|ERROR) .*::test_(\w+)", said, flags=re.M)
    assert failed == ["that_fails", "with_a_destructor_that_fails", *["that_leaves"] * 7], said
