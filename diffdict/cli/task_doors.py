"""Each task is run by one door. The head of its YAML names it: `python train.py task=sae`."""

import re
from collections.abc import Iterable
from pathlib import Path

from diffdict.cli.paths import folder
from diffdict.errors import UserError


def check_task_door(door: str, words: Iterable[str]) -> None:
    """Refuses a task that another door runs; what others have defined is left to Hydra."""
    for word in words:
        key, _, options = word.partition("=")
        for task in options.split(",") if key == "task" else ():
            right = task_door(Path(folder("conf"), "task", f"{task}.yaml"))
            judged = door == "evaluate" and right == "train"  # evaluate itself says how
            if right not in (None, door) and not judged:
                raise UserError(f"task={task} belongs to {right}: python {right}.py task={task}")


def task_door(file: Path) -> str | None:
    """The door that the head of a task's YAML names; None where there is no such file."""
    if not file.is_file():
        return None
    head = re.match(r"(#.*\n)*", file.read_text())[0]
    match = re.search(rf"python (\w+)\.py (?:\S+ )*task={file.stem}\b", head)
    return match and match[1]
