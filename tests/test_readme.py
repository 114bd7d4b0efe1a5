"""The README's commands work as written: every ```sh block, verbatim, in a fresh copy."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import PATIENCE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAPERS = (ROOT / "docs/papers.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, flags=re.S)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The files of the checkout in an empty folder, with its virtual environment."""
    to = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.splitlines()):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    (to / ".venv").symlink_to(Path(sys.prefix))
    # what runs this test is installed: no `make` may install the copy over it
    os.utime(to / "pyproject.toml", (0, 0))
    return to


def test_readme_is_short():
    assert len(README.splitlines()) <= 200
    assert sum("make test" in block for block in BLOCKS) == 1


def test_blocks_run_verbatim(copy):
    blocks = [block for block in BLOCKS if "make test" not in block]
    script = "set -euo pipefail\n" + "\n".join(blocks)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=copy,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (copy / "features/toy_faces/toy_ddpm/train/store.json").exists()


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)h][^)]*)\)", README))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()


def test_named_files_exist():
    for path in re.findall(r"`((?:diffdict|conf)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)h][^)]*)\)", PAPERS))))
def test_links_of_papers_lead_somewhere(path):
    assert (ROOT / "docs" / path).exists()


def test_papers_name_every_experiment():
    named = set(re.findall(r"conf/experiment/(\w+)\.yaml", PAPERS))
    assert named == {path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")}


@pytest.mark.parametrize("page", [README, PAPERS], ids=["README", "papers"])
def test_no_row_of_papers_has_an_empty_cell(page):
    tables = re.findall(r"\| the original reports \|\n\|[-|]+\|\n((?:\|.*\n)+)", page)
    rows = [re.split(r"(?<!\\)\|", row)[1:-1] for table in tables for row in table.splitlines()]
    assert len(rows) >= 11
    assert [row for row in rows if len(row) != 4 or not all(map(str.strip, row))] == []
