"""README, docs/ and the heads of experiments say what there is: each of their commands composes."""

import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf, open_dict

from diffdict.cli.paths import at_home, folder
from diffdict.cli.task_doors import check_task_door
from diffdict.run.instantiate import drop_unset
from tests.test_conf import CONF, check_keys, composed

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
HEADS = sorted(CONF.glob("experiment/*.yaml"))
DOOR = r"(?:train|extract|evaluate)\.py\b"
FILES = r"`conf/((?:dataset|backbone)/\w+\.yaml)`\n\n```yaml\n(.*?)```"  # that a page has one write


def commands(text: str) -> list[str]:
    """What opens a door: lines of blocks and of comments, and words between backticks."""
    lines = re.findall(rf"^(?:# +)?python ({DOOR}.*)$", text.replace("\\\n", " "), re.M)
    words = re.findall(rf"`(?:python )?({DOOR} [^`]+)`", text)
    return sorted({re.split(r" {3,}", one)[0].strip() for one in [*lines, *words]})


ALL = [(page.name, command) for page in (*PAGES, *HEADS) for command in commands(page.read_text())]
WRITTEN = dict(part for page in PAGES for part in re.findall(FILES, page.read_text(), re.S))


def typed(command: str) -> tuple[str, list[str]]:
    """The door, and the words of its first job: … stands for what is the reader's."""
    door, *words = shlex.split(command, comments=True)
    swept = "-m" in words
    words = [word.replace("…", "x") for word in words if word not in ("-m", "…", "--help")]
    if swept:
        words = [word if "[" in word else word.partition(",")[0] for word in words]
    words = [word for word in words if "=" in word and "${hydra:" not in word]
    words = [word for word in words if not re.fullmatch(r"[a-z]+=x", word)]  # a choice left open
    return door.removesuffix(".py"), [at_home(re.sub(r"\|.*", "", word)) for word in words]


@pytest.mark.parametrize(("page", "command"), ALL, ids=[f"{p}: {c[:90]}" for p, c in ALL])
def test_every_command_composes(tmp_path, monkeypatch, page, command):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, text in WRITTEN.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    door, words = typed(command)
    check_task_door(door, words)
    places = f"hydra.searchpath=[file://{tmp_path},file://{folder('sweeps')}]"
    cfg = composed(door, *words, places)
    if OmegaConf.select(cfg, "data._target_") is not None:
        with open_dict(cfg):
            cfg.data = drop_unset(cfg.data)  # as a run does
        check_keys(cfg, command)


def test_commands_are_found():
    pages = {page for page, _ in ALL}
    assert {"README.md", "own_pictures.md", "classify.md", "steering.md", "few_shot.yaml"} <= pages
    assert len(ALL) > 200
    assert set(WRITTEN) >= {"dataset/horses.yaml", "backbone/horses_ddpm.yaml", "dataset/pets.yaml"}
