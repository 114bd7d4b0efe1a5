"""Which task is which subject of reports, and what a task is told that is not the one asked for."""

import inspect
import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
import yaml
from hydra.utils import get_object

import diffdict
from diffdict.cli.paths import folder
from diffdict.errors import UserError
from diffdict.reports.dashboard import Dashboard
from diffdict.reports.grid import Grid
from diffdict.reports.subjects import (
    SUBJECTS,
    DrawsFromCodes,
    HasDictionaries,
    HasTables,
    LooksAtPictures,
    Segments,
    SteersConcepts,
    SwitchesLatents,
    require,
    task_of,
)
from diffdict.tasks.diffusion import Diffusion
from diffdict.tasks.probe_sweep import ProbeSweep

WORDS = sorted(path.stem for path in Path(folder("conf"), "task").glob("*.yaml"))


def module_of(word):
    """The class behind task=word; a variant's is that of the task that it changes."""
    known = yaml.safe_load(Path(folder("conf"), "task", f"{word}.yaml").read_text())
    target = known["model"].get("_target_")
    return module_of(known["defaults"][0]) if target is None else get_object(target)


TASKS = {task_of(module): module for module in map(module_of, WORDS)}


def parameters(method):
    return set(inspect.signature(method).parameters)


@pytest.mark.parametrize("kind", SUBJECTS, ids=lambda kind: kind.__name__)
def test_the_tasks_that_messages_name_are_those_that_are_such_a_subject(kind):
    """Renamed methods and tasks that come to be one are found here."""
    subjects = sorted(word for word, module in TASKS.items() if issubclass(module, kind))
    assert subjects == sorted(SUBJECTS[kind].tasks)
    methods = [name for name in vars(kind) if not name.startswith("_")]
    assert methods
    for word in subjects:
        for name in methods:
            asked, taken = (parameters(getattr(one, name)) for one in (kind, TASKS[word]))
            assert asked <= taken, f"task={word} takes other arguments for {name}"


def test_every_kind_is_known_and_a_plain_module_is_none():
    known = {HasTables, HasDictionaries, Segments, DrawsFromCodes, LooksAtPictures}
    known |= {SteersConcepts, SwitchesLatents}
    assert set(SUBJECTS) == known
    assert not any(isinstance(pl.LightningModule(), kind) for kind in SUBJECTS)


@pytest.mark.parametrize("kind", SUBJECTS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("task", TASKS)
def test_a_task_that_is_none_is_told_which_are(task, kind):
    if issubclass(TASKS[task], kind):
        require(TASKS[task], kind, "report=some", "try another")
        return
    with pytest.raises(UserError) as told:
        require(TASKS[task], kind, "report=some", "try another")
    (line,) = str(told.value).splitlines()
    assert line.startswith(f"report=some shows {SUBJECTS[kind].shown} (task=")
    assert all(f"task={word}" in line for word in SUBJECTS[kind].tasks)
    assert line.endswith(f"this run is of task={task}: try another")


def test_a_page_is_asked_of_dictionaries_alone(tmp_path):
    module = Diffusion.__new__(Diffusion)
    with pytest.raises(UserError, match=r"\(task=sae\), this run is of task=diffusion: try"):
        Dashboard(str(tmp_path)).setup(pl.Trainer(logger=False), module, "test")


def test_a_task_without_pictures_is_told_that_nothing_is_drawn(tmp_path, capsys):
    report, trainer = Grid(str(tmp_path)), pl.Trainer(logger=False, accelerator="cpu")
    report.on_test_end(trainer, ProbeSweep.__new__(ProbeSweep))
    assert capsys.readouterr().out.splitlines()[-1] == (
        "grid: nothing to draw, task=probe_sweep shows no pictures"
    )
    assert list(tmp_path.iterdir()) == []


def test_no_module_is_asked_for_attributes_that_no_protocol_names():
    asks = re.compile(r"\b(?:has|get)attr\(\s*(?:self\.)?(?:pl_)?(?:module|model)\b")
    package = Path(diffdict.__file__).parent
    asking = [path.name for path in package.rglob("*.py") if asks.search(path.read_text())]
    assert asking == []
