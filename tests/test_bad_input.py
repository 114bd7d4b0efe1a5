"""What goes wrong when people type: one line each, exit code 2, and nothing left half-made."""

import itertools
import json
import os
import pickle
import re
import runpy
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
QUIET = ["trainer=cpu", "callbacks.progress=null"]
NET = [  # a network of milliseconds
    *("backbone.num_channels=32", "backbone.num_res_blocks=1", "backbone.channel_mult=[1,1]"),
    *("backbone.attention_resolutions=[]", "backbone.image_size=16", "backbone.checkpoint=null"),
]
FACES = [
    *("dataset.image_size=16", "dataset.train_pictures=4", "dataset.val_pictures=2"),
    "dataset.test_pictures=2",
]
DIFFUSION = [*QUIET, *NET, "data.batch_size=2", "data.num_workers=0", "callbacks.samples=null"]
PIXELS = [*QUIET, *FACES, "backbone=pixels", "timestep=null", "block=pixels"]
SAE = [*QUIET, *NET, *FACES, "task=sae", "block=1", "sae.scale=4", "sae.k=2"]
TOKENS = ["data.batch_size=64", "data.val_pictures=1"]
SYNTHETIC = "task=pixel_mlp data.source=live dataset=synthetic dataset.image_size=null"
SETTINGS = {  # what stands before the words of a row
    "train": [*DIFFUSION, *FACES, "trainer.max_steps=2"],
    "train pictures": [*DIFFUSION, "data.batch_size=3", "dataset=folder", "dataset.image_size=16"],
    "train sae": [*SAE, *TOKENS, "trainer.max_steps=2"],
    "train mlp": [*PIXELS, "task=pixel_mlp", "data.source=live", "model.members=2"],
    "train deeplab": [*QUIET, "task=deeplab", "data.num_workers=0", "model.depth=50"],
    "extract": [*QUIET, *NET, *FACES, "block=1"],
    "extract samples": [*QUIET, *NET, *FACES, "task=samples", "data.number=2"],
    "evaluate": QUIET,
    "bare train": [],
    "bare extract": [],
    "bare evaluate": [],
}


class Said(NamedTuple):
    """How a door was closed."""

    code: int
    lines: list[str]  # of standard error


def open_door(door: str, words: list[str], folder: Path, capfd: pytest.CaptureFixture) -> Said:
    """`python DOOR.py WORDS` in this process and that folder: its exit code and what it said."""
    here, argv, environment = Path.cwd(), sys.argv, dict(os.environ)
    sys.argv = [str(ROOT / f"{door}.py"), *words]
    os.chdir(folder)
    capfd.readouterr()
    code: object = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    finally:
        os.chdir(here)
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)
    return Said(int(code or 0), capfd.readouterr().err.strip().splitlines())


def tree(folder: Path) -> dict[str, int]:
    """Every file and folder, with sizes; of runs what is more than their records."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not RECORD.fullmatch(name):
            found[name] = path.stat().st_size if path.is_file() else -1
    return found


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
    for name in ("nine", "unmasked", "small", "coloured", "letters"):
        shutil.copytree("labelled", name)
        os.remove(f"{name}/train/1_mask.png")
    noise("nine/train/1_mask.png", "L", most=9)
    noise("small/train/1_mask.png", "L", size=(8, 8), most=3)
    noise("coloured/train/1_mask.png", "RGBA")
    Path("letters/classes.json").write_text('{"classes": "abc"}')
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


def stores() -> None:
    """Copies of the store that were tampered with."""
    for name in ("edited", "torn"):
        shutil.copytree("features", name)
    index = Path("edited/toy_faces/toy_ddpm/train/store.json")
    index.write_text(index.read_text().replace('"pictures": 4', '"pictures": 3'))
    shard = next(Path("torn").glob("*/*/train/t0050-b01/*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-7])


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
        ("train sae", "data.choose_pictures=0", "hydra.run.dir=sae"),
        ("train mlp", "trainer.max_epochs=1", "hydra.run.dir=mlp"),
        ("train", "hydra.run.dir=diffusion"),
    ):
        door = setting.split()[0]
        assert open_door(door, [*SETTINGS[setting], *words], folder, Mute()).code == 0
    here = Path.cwd()
    os.chdir(folder)
    pictures()
    checkpoints()
    stores()
    os.chdir(here)
    shutil.rmtree(folder / "outputs")
    return folder


ROWS = [
    # ---- words that mean nothing
    ("bare train", "trianer.max_steps=5", "trianer", "Did you mean trainer?"),
    ("bare train", "trainer.maxsteps=5", "trainer.maxsteps", "Did you mean trainer.max_steps?"),
    ("bare train", "data.batchsize=1", "data.batchsize", "Did you mean data.batch_size?"),
    ("bare train", "trainer.max_steps=many", "'many'", "trainer.max_steps must be int"),
    ("bare train", "dataset=folder", "dataset=folder", "dataset.path="),
    ("bare train", "backbone=pixels", "pixels is no diffusion network", "backbone=guided_unet"),
    ("bare train", "task=SAE", "task/SAE", "Did you mean sae?"),
    ("bare train", "+experimnt=demo", "+experimnt=demo", "and no +"),
    ("bare train", "+sae=topk", "+sae=topk", "leave it out"),
    ("bare train", "sampler=ddim", "sampler is chosen with task=samples", "leave it out"),
    ("bare train", "seed", "'seed'", "KEY=VALUE"),
    ("bare train", "=5", "5", "KEY=VALUE"),
    ("bare train", "timestep=[50,", "timestep=[50,", "in quotes"),
    ("bare train", "--nonsense", "--nonsense is no flag", "--help"),
    ("bare train", "seed=1 -x seed=2", "-x is no flag", "--help"),
    ("bare extract", "--seed=3", "--seed=3 is no flag", "seed=0"),
    ("bare evaluate", "--cfg nope", "'nope'", "'job', 'hydra', 'all'"),
    ("bare evaluate", "--cfg", "--cfg/-c", "expected one argument"),
    ("bare train", "-m +sweep=timestep_blok", "timestep_blok", "Did you mean timestep_block?"),
    ("bare train", "-m hydra/launcher=slurm", "launcher/slurm", "submitit_slurm"),
    ("train", "-m seed=-1", "got -1", "seed=0"),
    ("train", "-m hydra.sweep.dir=text.ckpt seed=1,2", "text.ckpt", "hydra.sweep.dir="),
    ("train", "hydra.run.dir=text.ckpt/run", "text.ckpt/run", "hydra.run.dir="),
    # ---- numbers and words out of range
    ("train", "seed=-1", "got -1", "seed=0"),
    ("train", "seed=abc", "got abc", "seed=0"),
    ("train", "test=perhaps", "'perhaps'", "test=false"),
    ("train", "model.optimizer.lr=nan", "got nan", "1e-4"),
    ("train", "model.optimizer.lr=abc", "got abc", "1e-4"),
    ("train", "model.optimizer.weight_decay=-1", "weight_decay=-1", "Invalid weight_decay"),
    ("train", "model.warmup_steps=-1", "got -1", "model.warmup_steps=0"),
    ("train", "+model.nonsense=1", "model.nonsense", "~model.nonsense"),
    ("train", "model._target_=os.system", "os.system", "model"),
    ("train", "model._target_=diffdict.nope.Nope", "diffdict.nope.Nope", "package.module.Name"),
    ("train", "data.batch_size=0", "data.batch_size=0", "at least 1"),
    ("train", "data.batch_size=1000000", "1000000", "smaller data.batch_size"),
    ("train", "dataset.train_pictures=0", "0 training pictures", "data.batch_size"),
    ("train", "dataset.image_size=100000", "got 100000", "16 to 4096"),
    ("train", "dataset.name=../up", "'../up'", "a word without /"),
    ("train", "backbone.dropout=2", "got 1 and 2", "[0, 1)"),
    ("train", "trainer.devices=64", "trainer.devices=64", "at most"),
    ("train", "trainer.num_nodes=2", "trainer.num_nodes=2", "trainer.num_nodes=1"),
    ("train", "trainer.accelerator=gpu", "gpu", "trainer"),
    ("train", "trainer.precision=fp8", "'fp8'", "bf16-mixed"),
    ("train", "trainer.precision=16-mixed", "trainer.precision=16-mixed", "32-true"),
    ("train", "trainer.max_epochs=0", "trainer.max_epochs=0", "evaluate.py"),
    ("train", "trainer.accumulate_grad_batches=0", "got 0", "trainer.accumulate_grad_batches=1"),
    ("train", "trainer.val_check_interval=0", "got 0", "trainer.limit_val_batches=0"),
    ("train", "callbacks.checkpoint.every_n_train_steps=-5", "-5", "Must be >= 0"),
    # ---- dictionaries
    ("train sae", "sae.k=500", "got 500", "raise sae.scale"),
    ("train sae", "sae.scale=nan", "sae.scale=nan", "at least 1 latent"),
    ("train sae", "sae.scale=1e12", "sae.scale=1000000000000.0", "lower sae.scale"),
    ("train sae", "sae.aux_weight=nan", "got nan", "0 is none"),
    ("train sae", "model.concepts.quantiles=[]", "got []", "ascend from 0"),
    ("train sae", "data.batch_size=0", "got 0", "1 or more"),
    ("train sae", "data.val_pictures=null data.val_fraction=nan", "got nan", "0.05"),
    ("train sae", "block=[]", "got []", "block=6"),
    ("train sae", "block=99", "block 99", "python extract.py"),
    ("train sae", "timestep=abc", "'abc'", "timestep=50"),
    ("train sae", "timestep=1000", "timestep 1000", "python extract.py"),
    ("train sae", "noise.draws=0", "got 0", "noise.draws=1"),
    ("train sae", "noise.seed=7", "'seed': 7", "another paths.features"),
    ("train sae", "paths.features=", "paths.features", "name a folder"),
    ("train sae", "paths.features=edited", "edited", "extract"),
    ("train sae", "paths.features=torn", "torn", "extract"),
    ("train sae", "dataset.train_pictures=5", "asks for 5", "python extract.py"),
    ("train sae", "backbone.checkpoint=toy_ddpm", "backbone_sha256", "another folder"),
    # ---- segmenters
    ("train mlp", "model.hidden=[0]", "[0]", "[128,32]"),
    ("train mlp", "model.vote=loud", "'loud'", "majority, soft"),
    ("train mlp", "data.batch_size=0", "got 0", "data.batch_size=1"),
    ("train mlp", "data.val_pictures=4", "4 of 4", "give 3 at most"),
    ("train mlp", "data.sae=mlp/last.ckpt", "mlp/last.ckpt", "dictionary/"),
    *(
        ("bare train", f"{SYNTHETIC} backbone={name}", f"backbone.{size}", "dataset.image_size=")
        for name, size in (("pixels", "image_size"), ("mae", "img_size"))
    ),
    ("train deeplab", "dataset=folder dataset.path=plain", "masks", "have none"),
    ("train deeplab", "dataset=synthetic", "samples/toy_faces_ddpm", "dataset.path="),
    # ---- pictures
    ("train pictures", "dataset.path=nowhere", "nowhere", "dataset.path="),
    ("train pictures", "dataset.path=nothing", "nothing", "dataset.path="),
    ("train pictures", "dataset.path=cut", "cut/train/0.png", "replace it"),
    ("train pictures", "dataset.path=words", "words/train/0.png", "replace it"),
    ("train pictures", "dataset.path=wide", "20×16", "dataset.crop=center"),
    ("train pictures", "dataset.path=nine", "its 3 classes", "dataset.num_classes"),
    ("train pictures", "dataset.path=unmasked", "1.png has no mask", "dataset.masks=false"),
    ("train pictures", "dataset.path=small", "8×8", "of one size"),
    ("train pictures", "dataset.path=coloured", "4 channels (RGBA)", "grey or palette PNG"),
    ("train pictures", "dataset.path=letters", "'abc'", '"classes": ["sky", "road"]'),
    ("train pictures", "dataset.path=plain dataset.test_pictures=-1", "-1", "null takes all"),
    # ---- checkpoints
    ("train", "ckpt_path=plain", "plain", "last.ckpt"),
    ("train", "ckpt_path=half.ckpt", "half.ckpt", "save it again"),
    ("train", "ckpt_path=pickle.ckpt", "pickle.ckpt", "save it again"),
    ("train", "ckpt_path=code.ckpt", "code.ckpt is refused", "torch.save"),
    ("train", "ckpt_path=anothers.pt", "anothers.pt", "backbone.checkpoint="),
    ("train", "ckpt_path=sae/last.ckpt", "sae/last.ckpt", "task="),
    ("train", "ckpt_path=diffusion/last.ckpt trainer.max_steps=1", "come to 2", "raise trainer"),
    ("train", "ckpt_path=diffusion/last.ckpt model.optimizer.lr=1", "here it is 1", "lr=0.0001"),
    ("train", "backbone.checkpoint=code.ckpt", "code.ckpt is refused", "torch.save"),
    ("train", "backbone.checkpoint=mlp/last.ckpt", "mlp/last.ckpt", "Choose the backbone"),
    ("train mlp", "ckpt_path=mlp/last.ckpt model.members=3", "3 here", "learned with"),
    # ---- extractions and samples
    ("extract", "block=99", "99", "0, 1, 2, 3"),
    ("extract", "timestep=-1", "got -1", "timestep="),
    ("extract", "split=[]", "split=[]", "split=[train,test]"),
    ("extract", "storage=fp8", "fp8", "fp16, bf16 or fp32"),
    ("extract", "dataset.seed=9", "dataset_hash", "another folder"),
    ("extract", "paths.features=text.ckpt/x", "text.ckpt/x", "another name or folder"),
    ("extract", "labeller=mlp/last.ckpt", "labeller", "Keys of the root"),
    ("extract samples", "sampler.respacing=ddim0", "'ddim0'", "ddim50"),
    ("extract samples", "sampler.eta=5", "not 5", "1 (as much as ddpm)"),
    ("extract samples", "sampler=ddim_invert", "ddim_invert", "sampler=ddim"),
    ("extract samples", "labeller=sae/last.ckpt", "sae/last.ckpt", "task=pixel_mlp"),
    # ---- evaluations
    ("evaluate", "ckpt_path=code.ckpt", "code.ckpt is refused", "torch.save"),
    ("evaluate", "ckpt_path=sae/last.ckpt backbone=mae", "backbone=mae", "Leave it out"),
    ("evaluate", "ckpt_path=sae/last.ckpt report=dashbord", "dashbord", "Did you mean dashboard?"),
    ("evaluate", "ckpt_path=mlp/last.ckpt report=dashboard", "task=pixel_mlp", "report=grid"),
    ("evaluate", "ckpt_path=sae/last.ckpt names=names.json", "names.json", "report=dashboard"),
    (
        "evaluate",
        "ckpt_path=sae/last.ckpt names=names.json report=dashboard",
        "names.json is not JSON",
        "export names from the page",
    ),
    ("evaluate", "ckpt_path=sae/last.ckpt picture=none.jpg", "none.jpg", "picture=PATH"),
    ("evaluate", "ckpt_path=sae/last.ckpt picture=bomb.png", "3600000000 pixels", "replace it"),
    ("evaluate", "ckpt_path=diffusion/last.ckpt picture=a.png", "task=diffusion", "task=sae"),
    ("evaluate", "ckpt_path=mlp/last.ckpt +model.members=4", "4 here", "learned with"),
    ("evaluate", "ckpt_path=mlp/last.ckpt data.choose_pictures=1", "choose_pictures", "leave it"),
    ("evaluate", "task=probe_sweep data.choose_pictures=1", "choose_pictures", "leave it"),
    ("evaluate", "ckpt_path=sae/last.ckpt data.choose_pictures=-1", "got -1", "null takes all"),
    ("evaluate", "ckpt_path=sae/last.ckpt data.choose=1", "data.choose", "choose_pictures"),
    ("evaluate", "runs=nowhere report=table", "runs=nowhere", "multirun/"),
    ("evaluate", "runs=sae report=dashboard", "report=dashboard", "ckpt_path="),
    ("evaluate", "runs=sae report=table report.table.metrics=[a]", "measured a", "test/fvu"),
    ("evaluate", "runs=sae report=table report.table.over=[sed]", "over=sed is", "seed"),
    ("evaluate", "runs=sae report=heatmap report.heatmap.over=[sed]", "over=sed is", "seed"),
    ("evaluate", "runs=sae report=curve report.curve.over=[sed]", "over=sed is", "sae.k"),
    ("evaluate", "runs=sae report=table report.table.over=seed", "got 'seed'", "over=[seed]"),
    ("evaluate", "report=heatmap", "it got nothing", "ckpt_path="),
    ("evaluate", "runs=.", "report=none", "report=heatmap, table or curve"),
    ("evaluate", "task=sae", "task=sae", "ckpt_path="),
    ("evaluate", "task=probe_sweep model.ridges=[-1] timestep=50", "[-1]", "positive"),
]


@pytest.mark.parametrize(
    ("setting", "words", "said"),
    [(setting, words, said) for setting, words, *said in ROWS],
    ids=[f"{setting}: {words}" for setting, words, *_ in ROWS],
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
