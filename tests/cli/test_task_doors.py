"""A task typed at the wrong door is one line that names the right one."""

from pathlib import Path

import pytest

from diffdict.cli.task_doors import check_task_door, task_door
from diffdict.errors import UserError

TASKS = sorted((Path(__file__).parents[2] / "conf/task").glob("*.yaml"))


@pytest.mark.parametrize("file", TASKS, ids=lambda file: file.stem)
def test_the_head_of_a_task_names_its_door(file):
    assert task_door(file) in ("train", "extract", "evaluate")


@pytest.mark.parametrize(
    ("door", "word", "right"),
    [
        ("train", "task=samples", "python extract.py task=samples"),
        ("train", "task=probe_sweep", "python evaluate.py task=probe_sweep"),
        ("extract", "task=sae", "python train.py task=sae"),
        ("evaluate", "task=invert", "python extract.py task=invert"),
        ("train", "task=sae,samples", "python extract.py task=samples"),
    ],
)
def test_another_door_is_named(door, word, right):
    with pytest.raises(UserError, match=right):
        check_task_door(door, ["seed=1", word])


@pytest.mark.parametrize(
    ("door", "word"),
    [
        ("train", "task=sae"),
        ("evaluate", "task=sae"),
        ("train", "task=my_own"),
        ("train", "+task=x"),
    ],
)
def test_what_may_be_right_is_left_to_the_door(door, word):
    check_task_door(door, [word])
