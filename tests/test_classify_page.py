"""docs/classify.md says what there is: each of its commands composes, with its own data set."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diffdict.cli.paths import folder

PAGE = (Path(__file__).parents[1] / "docs/classify.md").read_text()
COMMANDS = "".join(re.findall(r"```sh\n(.*?)```", PAGE, flags=re.S)).splitlines()
PETS = re.search(r"`conf/dataset/pets.yaml`\n\n```yaml\n(.*?)```", PAGE, flags=re.S)[1]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_composes(tmp_path, monkeypatch, line):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/pets.yaml").write_text(PETS)
    _, script, *words = shlex.split(line)
    if words[0] == "-m":  # a sweep: the first of each choice
        words = [word if "[" in word else word.partition(",")[0] for word in words[1:]]
    places = f"hydra.searchpath=[file://{tmp_path},file://{folder('sweeps')}]"
    with initialize_config_dir(folder("conf"), version_base="1.3"):
        cfg = compose(script.removesuffix(".py"), [*words, places])
    if cfg.get("backbone") is not None:
        OmegaConf.to_container(cfg.backbone, resolve=True, throw_on_missing=True)


def test_the_page_has_them():
    assert len(COMMANDS) == 20
