"""The house keeps its order: arrows point down, files and functions stay short, rooms are real."""

import ast
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from tests.isolation import uncollected

ROOT = Path(__file__).parent.parent
FILES = sorted(
    [*ROOT.glob("*.py"), *(ROOT / "diffdict").rglob("*.py"), *ROOT.glob("tests/**/*.py")]
)


@cache
def parsed(path: Path) -> ast.Module:
    """Once, and without what a collection could do to it."""
    with uncollected():
        return ast.parse(path.read_text())


def test_arrows_point_down():
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lengths(path):
    assert len(path.read_text().splitlines()) <= 400, "a file has at most 400 lines"
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name}: a function has ≤ 60 lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_first_line_says_what_the_file_holds(path):
    assert ast.get_docstring(parsed(path)), "the first line says what a file holds"


def test_no_room_without_a_name():
    words = {"utils", "helpers", "common", "misc"}
    assert not [path for path in FILES if words & {part.removesuffix(".py") for part in path.parts}]


def test_torchvision_is_never_imported():
    for path in FILES:
        for node in ast.walk(parsed(path)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("torchvision", "timm")]


def test_a_room_holds_at_most_a_dozen_parts():
    """Besides its files of words: those that a YAML of conf names, by its own name or inside."""
    yamls = sorted((ROOT / "conf").rglob("*.yaml"))
    words = {path.stem for path in yamls}
    text = "\n".join(path.read_text() for path in yamls)
    parts = defaultdict(list)
    for path in (ROOT / "diffdict").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if path.stem not in words | {"__init__"} and f"{module}." not in text:
            parts[path.parent].append(path.name)
    assert not {room: files for room, files in parts.items() if len(files) > 12}
