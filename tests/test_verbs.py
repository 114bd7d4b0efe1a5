"""`diffdict VERB …`: what is mistyped behind it is one line that names the way out, and code 2."""

import sys
from pathlib import Path

import pytest

from diffdict import __main__ as package


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with a run, features below another, and a file that is neither."""
    monkeypatch.chdir(tmp_path)
    for name in ("run/last.ckpt", "features/faces/net/train/store.json", "notes.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("{}")
    Path("nothing").mkdir()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("inof run", ["inof is none of its verbs", "diffdict --help"]),
        ("info", ["info takes one PATH", "got nothing"]),
        ("info run notes.txt", ["info takes one PATH", "got run notes.txt"]),
        ("verify", ["verify takes one PATH", "got nothing"]),
        ("push run", ["push takes a PATH and hf://USER/NAME", "got run"]),
        ("pull hf://datasets/a/b", ["pull takes hf://datasets/USER/NAME and a FOLDER"]),
        ("pull hf://datasets/a/b notes.txt", ["notes.txt is a file", "name a folder"]),
        ("info run", ["run is a folder", "such as run/last.ckpt"]),
        ("verify run", ["run is a folder", "such as run/last.ckpt"]),
        ("info features", ["features holds neither features", "features/faces/net/train"]),
        ("info nothing", ["nothing holds neither features", "extract.py makes features"]),
        ("info nowhere/last.ckpt", ["No file nowhere/last.ckpt", "nowhere holds none"]),
        ("info toy_dppm", ["No checkpoint 'toy_dppm'", "Did you mean toy_ddpm?"]),
        ("info notes.txt", ["notes.txt is no whole torch checkpoint", "save it again"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_way_out(world, monkeypatch, capsys, words, said):
    monkeypatch.setattr(sys, "argv", ["diffdict", *words.split()])
    with pytest.raises(SystemExit) as stop:
        package.main()
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert len(lines) == 1
    assert [word for word in said if word not in lines[0]] == [], lines[0]


def test_help_is_no_mistake(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["diffdict", "--help"])
    package.main()
    assert "diffdict push PATH" in capsys.readouterr().out
