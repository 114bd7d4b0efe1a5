"""What goes wrong when people type: one line each, exit code 2, and nothing left half-made."""

import itertools
import json
import os
import pickle
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.bad_codes import ROWS as OF_CODES
from tests.bad_codes import write_codes
from tests.bad_kinds import ROWS as OF_KINDS
from tests.bad_networks import ROWS as OF_NETWORKS
from tests.bad_representations import ROWS as OF_REPRESENTATIONS
from tests.bad_sets import ROWS as OF_SETS
from tests.bad_sets import write_sets
from tests.bad_settings import SETTINGS
from tests.bad_steering import ROWS as OF_STEERING
from tests.bad_words import ROWS
from tests.doors import open_door


def tree(folder: Path) -> dict[str, int]:
    """Every file and folder, with sizes; of runs what is more than their records."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not RECORD.fullmatch(name):
            found[name] = path.stat().st_size if path.is_file() else -1
    return found


ALL = [*ROWS, *OF_NETWORKS, *OF_SETS, *OF_CODES, *OF_KINDS, *OF_STEERING, *OF_REPRESENTATIONS]
RECORD = re.compile(  # what Hydra and the CSV logger write of a run before it begins
    r"(outputs|multirun)(/[\d-]+(/[\d-]+(/\d)?(/\.hydra(/(config|hydra|overrides)\.yaml)?"
    r"|/hparams\.yaml|/multirun\.yaml)?)?)?"
)


def noise(path: str, mode: str = "RGB", size: tuple[int, int] = (16, 16), most: int = 255) -> None:
    """A picture of noise; as a mask it has `most` classes."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    bands = len(Image.new(mode, (1, 1)).getbands())
    shape = (size[1], size[0], bands) if bands > 1 else (size[1], size[0])
    pixels = np.random.default_rng(0).integers(0, most, shape, dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path)


def bomb(path: str) -> None:
    """A PNG of a few bytes that says it has 3.6 billion pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"\0")), chunk(b"IEND", b"")
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


class Code:
    """What a pickle may hold: a command."""

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.system, ("touch EXECUTED",)


def pictures() -> None:
    """Folders of three pictures a split, each wrong in its own way."""
    for split, i in itertools.product(("train", "test"), range(3)):
        noise(f"plain/{split}/{i}.png")
        noise(f"labelled/{split}/{i}.png")
        noise(f"labelled/{split}/{i}_mask.png", "L", most=3)
    Path("labelled/classes.json").write_text(json.dumps({"classes": ["sky", "sea", "sand"]}))
    for name in ("cut", "words", "wide"):
        shutil.copytree("plain", name)
    first = Path("cut/train/0.png")
    first.write_bytes(first.read_bytes()[:200])
    Path("words/train/0.png").write_text("no picture")
    noise("wide/train/0.png", size=(20, 16))
    for name in ("nine", "unmasked", "small", "coloured", "letters", "twice", "ignored"):
        shutil.copytree("labelled", name)
        os.remove(f"{name}/train/1_mask.png")
    noise("nine/train/1_mask.png", "L", most=9)
    noise("small/train/1_mask.png", "L", size=(8, 12), most=3)
    noise("coloured/train/1_mask.png", "RGBA")
    Path("letters/classes.json").write_text('{"classes": "abc"}')
    Path("twice/classes.json").write_text('{"classes": ["sky", "sea", "sky"]}')
    Path("ignored/classes.json").write_text('{"classes": ["a", "b", "c"], "ignore_label": "c"}')
    os.makedirs("nothing")


def checkpoints() -> None:
    """Files that are no run's checkpoint, or not this one's."""
    Path("text.ckpt").write_text("just text\n")
    whole = Path("sae/last.ckpt").read_bytes()
    Path("half.ckpt").write_bytes(whole[: len(whole) // 2])
    Path("pickle.ckpt").write_bytes(pickle.dumps({"state_dict": Code()}))
    torch.save({"state_dict": Code(), "pytorch-lightning_version": "2"}, "code.ckpt")
    torch.save({"weight": torch.zeros(2, 2)}, "anothers.pt")
    Path("names.json").write_text('{"names": ')
    bomb("bomb.png")
    np.save("vectors.npy", np.zeros((2, 8), dtype=np.float32))
    np.save("whole.npy", np.zeros((2, 8), dtype=np.int64))
    np.save("nan.npy", np.full((2, 5), np.nan, dtype=np.float32))
    np.save("rowless.npy", np.zeros((0, 5), dtype=np.float32))
    np.save("pickled.npy", np.array([{}]), allow_pickle=True)
    Path("empty.png").touch()
    noise("tiny.png", size=(6, 6))
    noise("thin.png", size=(1000, 20))


def dictionaries() -> None:
    """Copies of an export, one of other weights, one without its card."""
    for name in ("others", "uncarded"):
        shutil.copytree("sae/dictionary", name)
    card = Path("others/card.json")
    sha256 = json.loads(card.read_text())["backbone_sha256"]
    card.write_text(card.read_text().replace(sha256, "0" * 64))
    Path("uncarded/card.json").unlink()


def stores() -> None:
    """Copies of the store that were tampered with."""
    for name in ("edited", "torn", "untested"):
        shutil.copytree("features", name)
    shutil.rmtree("untested/toy_faces/toy_ddpm/test")
    index = Path("edited/toy_faces/toy_ddpm/train/store.json")
    index.write_text(index.read_text().replace('"pictures": 4', '"pictures": 3'))
    shard = next(Path("torn").glob("*/*/train/t0050-b01/*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-7])


def inverted() -> None:
    """Copies of a folder of noise that were tampered with."""
    for name in ("cut_noise", "edited_noise", "lost_noise"):
        shutil.copytree("noise_of_faces", name)
    for name in ("cut_noise", "lost_noise"):
        shard = next(Path(name).glob("*.npz"))
        shard.write_bytes(shard.read_bytes()[:-7])
    shard.unlink()
    record = Path("edited_noise/noise.json")
    record.write_text(record.read_text()[:-9])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a store, a checkpoint of each kind, and all that is wrong."""
    folder = tmp_path_factory.mktemp("world")

    class Mute:
        def readouterr(self):
            return self

        err = ""

    for setting, *words in (
        ("extract",),
        ("extract invert", "folder=noise_of_faces"),
        ("train sae", "data.choose_pictures=0", "hydra.run.dir=sae"),
        ("train mlp", "trainer.max_epochs=1", "hydra.run.dir=mlp"),
        ("train", "hydra.run.dir=diffusion"),
        ("train ddae", "hydra.run.dir=ddae"),
        ("train pdae", "hydra.run.dir=pdae"),
        ("train rcdm", "hydra.run.dir=rcdm"),
    ):
        door = setting.split()[0]
        assert open_door(door, [*SETTINGS[setting], *words], folder, Mute()).code == 0
    here = Path.cwd()
    os.chdir(folder)
    pictures()
    write_sets()
    checkpoints()
    write_codes()
    dictionaries()
    stores()
    inverted()
    os.chdir(here)
    shutil.rmtree(folder / "outputs")
    return folder


@pytest.mark.parametrize(
    ("setting", "words", "said"),
    [(setting, words, said) for setting, words, *said in ALL],
    ids=[f"{setting}: {words}" for setting, words, *_ in ALL],
)
def test_a_mistake_is_one_line_that_names_the_way_out(world, capfd, setting, words, said):
    door = setting.split()[-1] if setting.startswith("bare") else setting.split()[0]
    before = tree(world)
    closed = open_door(door, [*SETTINGS[setting], *words.split()], world, capfd)
    if (kept := os.environ.get("BAD_INPUTS")) is not None:
        with open(kept, "a") as file:
            file.write(f"{door} | {words} | {' // '.join(closed.lines)}\n")
    assert closed.code == 2, closed.lines
    assert len(closed.lines) == 1, closed.lines
    assert [word for word in said if word not in closed.lines[0]] == [], closed.lines[0]
    assert "Traceback" not in closed.lines[0]
    assert tree(world) == before
