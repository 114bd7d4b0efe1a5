"""What a stranger types: help, configs without torch, wrong words in one line with exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import PATIENCE

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "diffdict/weights/toy_ddpm.safetensors"
DOORS = ("train", "extract", "evaluate")


def run(*argv: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "120", **env},
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("door", DOORS)
def test_help_is_written_for_people(door):
    said = run(str(ROOT / f"{door}.py"), "--help").stdout
    assert said.startswith(f"{door}: ")
    for group in ("dataset: ", "trainer: ", "logger: ", "report: "):
        assert group in said
    assert said.count(f"python {door}.py ") >= 5
    assert "toy_faces" in said
    assert "$(python" in said
    assert "$$" not in said


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("flags", [("--help",), ("--cfg", "job"), ("-sc", "query=bash")])
def test_looking_costs_no_torch(door, flags):
    watch = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pytorch_lightning', 'wandb', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = run("-c", watch, str(ROOT / f"{door}.py"), *flags, COMP_LINE=f"python {door}.py data")
    assert done.returncode == 0, done.stderr


def test_flags_may_stand_anywhere():
    """Words on both sides of one are all heard."""
    ends = [
        run(str(ROOT / "train.py"), *words).stdout
        for words in (
            ("--cfg", "job", "seed=3", "data.batch_size=5", "-p", "data"),
            ("seed=3", "--cfg", "job", "-p", "data", "data.batch_size=5"),
        )
    ]
    assert ends[0] == ends[1]
    assert "batch_size: 5" in ends[0]
    assert "batch_size: 5" in run(str(ROOT / "train.py"), "data.batch_size=5", "--info").stdout


def test_a_path_may_begin_at_home(tmp_path):
    """No shell says it behind a key with dots, and Hydra reads no such word."""
    words = "dataset=folder", "dataset.path=~/faces", "--cfg", "job", "-p", "dataset"
    done = run(str(ROOT / "train.py"), *words, HOME=str(tmp_path))
    assert f"path: {tmp_path}/faces" in done.stdout, done.stderr


def test_doors_open_from_any_folder(tmp_path):
    here = run(str(ROOT / "train.py"), "--cfg", "job", cwd=tmp_path)
    installed = run("-m", "diffdict", "train", "--cfg", "job", cwd=tmp_path)
    assert here.returncode == installed.returncode == 0
    assert here.stdout == installed.stdout != ""
    assert not list(tmp_path.iterdir()), "looking writes nothing"


WRONG = [  # as processes; many more in test_bad_input.py, in one
    ("train", "dataset=nope", ["nope", "toy_faces", "folder", "horse_21"]),
    ("train", "-m +sweep=concepts --cfg job", ["-m runs a sweep", "--cfg", "leave one"]),
    ("train", "data.batch_size=2.5", ["data.batch_size must be int", "2.5"]),
    ("train", f"ckpt_path={WEIGHTS}", ["not a run", "backbone.checkpoint="]),
    ("extract", f"paths.features={ROOT}/README.md/x", ["Cannot write"]),
    ("evaluate", "seed=0", ["ckpt_path=outputs"]),
]


@pytest.mark.parametrize(("door", "words", "said"), WRONG, ids=lambda value: str(value))
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, door, words, said):
    done = run(str(ROOT / f"{door}.py"), *words.split(), cwd=tmp_path)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(lines) == 1, done.stderr
    assert all(word in lines[0] for word in said), lines[0]
    written = [p for p in tmp_path.rglob("*") if p.is_file() and ".hydra" not in p.parts]
    assert not [p for p in written if p.suffix != ".log"], "nothing half-written"


def test_a_bug_keeps_its_traceback(tmp_path):
    (tmp_path / "broken.py").write_text("def broken(**_):\n    raise RuntimeError('a bug')\n")
    done = run(
        str(ROOT / "train.py"),
        "data._target_=broken.broken",
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "a bug" in done.stderr


def test_a_reader_may_stop_reading():
    """`train.py --help | head -1`: no word of folders, and no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), "--help"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_failing_job_does_not_end_the_sweep(tmp_path):
    done = run(
        str(ROOT / "train.py"),
        "-m",
        "debug=fdr",
        "data.batch_size=2",
        "backbone.num_channels=33,32",
        "backbone.num_res_blocks=1",
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("train: ")]
    assert len(said) == 2, done.stderr
    assert "must be a multiple of 32" in said[0]
    assert said[1].startswith("train: 1 of 2 jobs failed")
    assert "num_channels=33" in said[1]
    assert {path.name for path in (tmp_path / "multirun").glob("*/*/*") if path.is_dir()} >= {
        "0",
        "1",
    }
