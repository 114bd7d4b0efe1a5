"""Pages on drawing networks and codes say words that there are: each of their commands composes."""

import re
import shlex
from pathlib import Path

import pytest
from omegaconf import open_dict

from diffdict.run.instantiate import drop_unset
from tests.test_conf import check_keys, composed

DOCS = Path(__file__).parent.parent / "docs"
NAMES = ("attributes.md", "codes.md", "generation.md", "text_to_image.md")
PAGES = "".join((DOCS / page).read_text() for page in NAMES)
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGES, re.DOTALL)
COMMANDS = [
    line
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("python ") and "-m diffdict info" not in line
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command):
    _, door, *words = shlex.split(command, comments=True)
    if "-m" in words:  # a sweep: its first job
        words = [word.partition(",")[0] for word in words if word != "-m"]
        words = [word for word in words if "${hydra:" not in word]  # known in a run alone
    cfg = composed(door.removesuffix(".py"), *words)
    if "data" in cfg and "_target_" in cfg.data:
        with open_dict(cfg):
            cfg.data = drop_unset(cfg.data)  # as a run does
        check_keys(cfg, command)
