"""CONTRIBUTING.md is true: its additions run as they stand, in the house and from outside it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import PATIENCE

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
ROOM = re.compile(
    r"diffdict([./])(?:backbones|data|sae|representations|reports|tasks)\1"
    r"(patches|stripes|log_relu|colours|twins|linear_pixels)"
)
COPIED = ("diffdict", "conf", "sweeps", "train.py", "extract.py", "evaluate.py", "pyproject.toml")
DOORS = """
import runpy, shlex, sys
for line in sys.stdin.read().splitlines():
    words = shlex.split(line)[1:]
    module = words[0] == "-m"
    sys.argv = words[1:] if module else words
    run = runpy.run_module if module else runpy.run_path
    try:
        run(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        assert not stop.code, line
"""


def blocks(kind: str, text: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", text, flags=re.S)


def additions(text: str) -> dict[str, str]:
    """The files that the page has one write, each where it says."""
    code = re.findall(r"^\*\*.*?`([\w/]+\.py)`[^\n]*\n\n```python\n(.*?)```", text, re.S | re.M)
    (choices,) = blocks("yaml", text)
    parts = re.findall(
        r"(?:# @package _global_\n)?# conf/.*?(?=\Z|# @package|# conf/)", choices, re.S
    )
    return dict(code) | {re.search(r"# (conf/[\w/]+\.yaml)", part)[1]: part for part in parts}


def run(folder: Path, *lines: str) -> str:
    """Commands one after the other, in one process that sees the folder first."""
    done = subprocess.run(
        [sys.executable, "-c", DOORS],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert not path.exists(), f"{name} is there already"
        path.write_text(text)


def check(folder: Path) -> None:
    """What all six leave: features, vectors, a dictionary and its report, a segmenter and its."""
    assert (folder / "features/stripes/patches/test/store.json").exists()
    assert (folder / "features/stripes/colours/test/store.json").exists()
    card = (folder / "outputs/stripes/dictionary/card.json").read_text()
    assert '"log_relu"' in card
    assert '"patches"' in card
    twins = (folder / "outputs/twins/twins-sae.csv").read_text().splitlines()
    assert len(twins) == 1 + 4 * 16
    figures = json.loads((folder / "outputs/grid/results.json").read_text())["metrics"]
    assert figures["test/miou"] > 0.5
    assert len(list((folder / "outputs/grid/grid/labels").glob("*.npy"))) == 8


@pytest.fixture(scope="module")
def inside(tmp_path_factory) -> Path:
    """A copy of the house with the six additions."""
    copy = tmp_path_factory.mktemp("house")
    for name in COPIED:
        if (ROOT / name).is_dir():
            left_out = shutil.ignore_patterns("__pycache__", "local")
            shutil.copytree(ROOT / name, copy / name, ignore=left_out)
        else:
            shutil.copy2(ROOT / name, copy / name)
    write(copy, additions(PAGE))
    return copy


def test_the_page_is_short():
    assert len(PAGE.splitlines()) <= 240
    assert len(additions(PAGE)) == 12


def test_the_additions_run_as_they_stand(inside):
    (script,) = blocks("sh", PAGE)
    run(inside, *script.splitlines())
    check(inside)


def test_the_house_is_still_in_order(inside):
    tools = Path(sys.executable).parent
    for command in (["ruff", "check"], ["ruff", "format", "--check"], ["lint-imports"]):
        command = [tools / command[0], *command[1:], "--no-cache"]
        done = subprocess.run(command, cwd=inside, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_they_run_from_a_package_of_ones_own(tmp_path):
    """The same files and commands, with the paths that the page says for this."""
    house = lambda text: ROOM.sub(r"mypackage\1\2", text)  # noqa: E731
    write(tmp_path, {house(name): house(text) for name, text in additions(PAGE).items()})
    (script,) = blocks("sh", PAGE)
    said = re.search(r"`python -m diffdict extract (--config-dir conf .*?)`", PAGE)[1]
    flags, _, words = said.partition(" dataset=")
    assert f"dataset={words}" in script
    door = rf"python -m diffdict \1 {flags} "
    own = re.sub(r"^python (\w+)\.py ", door, script, flags=re.M)
    bare = re.search(r"`(backbone\._target_=mypackage[\w.]+)`", PAGE)[1]
    network = f"python -m diffdict extract {flags} {bare} dataset=stripes dataset.name=bare"
    run(tmp_path, *own.splitlines(), network)
    check(tmp_path)
    assert (tmp_path / "features/bare/patches/train/store.json").exists()


def test_named_files_exist():
    own = additions(PAGE)
    for path in re.findall(r"`((?:diffdict|tests|conf)/[\w/]+\.\w+)`", PAGE):
        assert (ROOT / path).exists() or path in own, path
