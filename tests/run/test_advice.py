"""Commands that errors propose: each composes, with what was typed, and makes what is missing."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from diffdict.cli.paths import folder as packaged
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import command, override
from tests.doors import FACES, NET, QUIET, SAE, TOKENS, open_door

STORED = ("paths", "dataset", "backbone", "noise")  # what tells one feature store from another
LEARN = [*SAE, *TOKENS, "trainer.max_steps=2"]
MLP = [*QUIET, "task=pixel_mlp", "model.members=2", "trainer.max_epochs=1"]
SMALL = [*NET[:-2], "backbone.image_size=16", "dataset.image_size=16"]
OWN = ["dataset=folder", "dataset.path=pictures"]
UNET = ["backbone=guided_unet", *SMALL, "backbone.checkpoint=net.pt", "block=1"]
SYNTHETIC = ["dataset=synthetic", "dataset/real=folder", "dataset.real.path=pictures"]


class Mute:
    """Where a fixture's doors speak: nobody listens."""

    err = ""

    def readouterr(self) -> "Mute":
        return self


def proposed(line: str) -> tuple[str, list[str]]:
    """The door and the words of the one command that a message proposes."""
    found = re.findall(r"python (extract|train|evaluate)\.py (.*?)(?: — |, or |$)", line)
    assert len(found) == 1, line
    return found[0][0], shlex.split(found[0][1])


def composed(door: str, words: list[str]) -> DictConfig:
    """What Hydra makes of a command."""
    assert "…" not in " ".join(words)
    with initialize_config_dir(packaged("conf"), version_base="1.3"):
        return compose(door, overrides=[word for word in words if not word.startswith("hydra.")])


def same_features(cfg: DictConfig, other: DictConfig) -> bool:
    """Whether both store, or read, the same features."""
    pairs = [
        [OmegaConf.to_container(one[place], resolve=True) for place in STORED]
        for one in (cfg, other)
    ]
    return pairs[0] == pairs[1] and (cfg.timestep, cfg.block) == (other.timestep, other.block)


def drawn(folder: Path, splits: tuple[str, ...] = ("train", "test")) -> None:
    """Faces of 16 pixels as a folder's pictures, without masks."""
    for split in splits:
        (folder / split).mkdir(parents=True)
        for i, face in enumerate(ToyFaces(split, image_size=16, train_pictures=3, test_pictures=3)):
            pixels = ((face["image"].permute(1, 2, 0) + 1) * 127.5).byte().numpy()
            Image.fromarray(pixels).save(folder / split / f"{i}.png")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with pictures, and the features of the toy faces in block 1."""
    folder = tmp_path_factory.mktemp("world")
    drawn(folder / "pictures")
    drawn(folder / "bare", ("train",))
    torch.save({"weight": torch.zeros(2, 2)}, folder / "net.pt")
    words = [*QUIET, *NET, *FACES, "block=1"]
    assert open_door("extract", words, folder, Mute()).code == 0
    words = [*LEARN, "data.choose_pictures=0", "hydra.run.dir=learned"]
    assert open_door("train", words, folder, Mute()).code == 0
    for name, split in (("untested", "test"), ("untrained", "train")):
        shutil.copytree(folder / "features", folder / name)
        shutil.rmtree(folder / name / "toy_faces" / "toy_ddpm" / split)
    return folder


MISSING = {  # typed words, and those that the proposal has to carry
    "default dataset": ([*QUIET, "task=sae"], ["timestep=50", "block=4"]),
    "wrong block": ([*LEARN, "block=0"], ["block=0", "backbone.num_channels=32"]),
    "wrong timestep": ([*LEARN, "timestep=60"], ["timestep=60", "dataset.train_pictures=4"]),
    "several": ([*LEARN, "timestep=[50,60]", "block=[0,1]"], ["timestep=[50,60]", "block=[0,1]"]),
    "more pictures": ([*LEARN, "dataset.train_pictures=5"], ["dataset.train_pictures=5"]),
    "own folder": (
        [*LEARN, *OWN, "dataset.name=mine", "backbone=toy_ddpm"],
        ["dataset=folder", "dataset.path=pictures", "dataset.name=mine", "backbone=toy_ddpm"],
    ),
    "lsun20k": ([*LEARN, "dataset.name=lsun20k", *OWN], ["dataset=folder", "dataset.name=lsun20k"]),
    "a folder with blanks": (
        [*LEARN, "dataset=folder", "dataset.path='a b, c=d'"],
        ["dataset.path='a b, c=d'"],
    ),
    "published": ([*MLP, "dataset=horse_21"], ["dataset=horse_21", "timestep=[50,150,250]"]),
    "few_shot": (
        ["experiment=few_shot", *QUIET],
        ["dataset=horse_21", "block=[5,6,7,8,12]"],
    ),
    "few_shot of another": (
        ["experiment=few_shot", "dataset=cat_15", "backbone=guided_unet", *QUIET],
        ["dataset=cat_15", "backbone=guided_unet", "timestep=[50,150,250]"],
    ),
    "an experiment's pictures": (
        ["experiment=sae_toy", *QUIET],
        ["dataset.name=toy_faces_500", "dataset.train_pictures=500"],
    ),
    "other backbone": (
        [*MLP, *UNET, "backbone.name=theirs"],
        ["backbone=guided_unet", "backbone.checkpoint=net.pt", "backbone.name=theirs"],
    ),
    "no timesteps": ([*MLP, "backbone=pixels"], ["backbone=pixels", "block=pixels"]),
    "another domain": (
        [*MLP, "backbone=mae", "domain=ffhq", "dataset.image_size=256"],
        ["backbone=mae", "domain=ffhq", "dataset.image_size=256"],
    ),
    "synthetic": (
        [*MLP, "dataset=synthetic", "dataset.path=samples.npz", "block=3"],
        ["dataset=synthetic", "dataset.path=samples.npz"],
    ),
    "synthetic and real": (
        [*MLP, *SYNTHETIC, "dataset.real.num_classes=2"],
        [*SYNTHETIC, "dataset.real.num_classes=2"],
    ),
    "noise": ([*LEARN, "noise.seed=3", "paths.features=other"], ["noise.seed=3"]),
    "unlabelled": ([*LEARN, *OWN, "test=false"], ["dataset=folder", "split=train"]),
    "test alone": ([*LEARN, "paths.features=untested"], ["split=test", "paths.features=untested"]),
    "training alone": ([*LEARN, "paths.features=untrained"], ["split=train"]),
}


@pytest.mark.parametrize("case", MISSING)
def test_the_extraction_that_is_missing(world, capfd, case):
    typed, carried = MISSING[case]
    closed = open_door("train", typed, world, capfd)
    assert closed.code == 2, closed.lines
    door, words = proposed(closed.lines[-1])
    assert door == "extract"
    assert [word for word in carried if word not in words] == []
    assert same_features(composed("extract", words), composed("train", typed))


@pytest.mark.parametrize(
    "value",
    [
        *("plain", "null", "1e5", "03", "", "[a]", "~/x", "ä"),
        *("a b, c=d", "it's", "tail\\", "q\\'q"),
        *(None, True, 3, 2.5, [50, 150], ["a", "b c"], {"train": "x y", "test": None}),
    ],
)
def test_a_setting_comes_back_from_a_shell_and_hydra(value):
    words = shlex.split(command(override("+value", value)))
    assert len(words) == 1
    said = composed("extract", words).value
    assert (OmegaConf.to_object(said) if OmegaConf.is_config(said) else said) == value


def test_a_checkpoint_in_any_folder_is_named_so_that_it_is_found(world, capfd):
    """Folders of sweeps hold = and commas."""
    odd = world / "seed=1,it's" / "last.ckpt"
    odd.parent.mkdir(exist_ok=True)
    shutil.copy(world / "learned" / "last.ckpt", odd)
    word = override("ckpt_path", f"{odd.parent.name}/last.ckpt")
    closed = open_door("train", [*LEARN, "trainer.max_steps=1", word], world, capfd)
    door, words = proposed(closed.lines[-1])
    assert (door, words) == ("evaluate", [word])
    assert Path(world, composed(door, words).ckpt_path).is_file()


def test_another_checkpoint_under_one_name_gets_its_own(world, capfd):
    """As the message says: a name for what differs; then its features are the ones missing."""
    words = [*LEARN, "backbone.checkpoint=net.pt"]
    closed = open_door("train", words, world, capfd)
    assert "backbone_sha256" in closed.lines[-1]
    assert "backbone.name=" in closed.lines[-1]
    words += ["backbone.name=theirs"]
    door, proposal = proposed(open_door("train", words, world, capfd).lines[-1])
    assert {"backbone.checkpoint=net.pt", "backbone.name=theirs"} <= {*proposal}
    assert same_features(composed(door, proposal), composed("train", words))


def test_the_test_is_left_out_only_where_training_needs_nothing(world, capfd):
    for place, advised in (("untested", True), ("nothing", False), ("untrained", False)):
        closed = open_door("train", [*LEARN, f"paths.features={place}"], world, capfd)
        assert closed.lines[-1].endswith("or leave the test out: test=false") is advised
    words = [*LEARN, "paths.features=untested", "test=false", "hydra.run.dir=without"]
    assert open_door("train", words, world, capfd).code == 0


EVALUATED = {  # of a dictionary of the toy faces
    "its own pictures": (["paths.features=none"], ["backbone.image_size=16", "block=1"]),
    "other pictures": (
        ["dataset=folder", "dataset.path=pictures", "dataset.name=lsun20k"],
        ["dataset=folder", "dataset.path=pictures", "dataset.name=lsun20k", "timestep=50"],
    ),
    "a published set": (["dataset=horse_21"], ["dataset=horse_21", "backbone=toy_ddpm"]),
    "another timestep": (["timestep=60"], ["timestep=60", "dataset.image_size=16"]),
}


@pytest.mark.parametrize("case", EVALUATED)
def test_the_extraction_that_an_evaluation_lacks(world, capfd, case):
    typed, carried = EVALUATED[case]
    closed = open_door("evaluate", [*QUIET, "ckpt_path=learned/last.ckpt", *typed], world, capfd)
    assert closed.code == 2, closed.lines
    door, words = proposed(closed.lines[-1])
    assert [word for word in carried if word not in words] == []
    trained = composed("train", [*LEARN, *(word for word in typed if "paths" in word)])
    made = composed(door, words)
    for place in ("backbone", "noise", "paths"):
        pair = [OmegaConf.to_container(cfg[place], resolve=True) for cfg in (made, trained)]
        pair = [{**node, "image_size": 16} if place == "backbone" else node for node in pair]
        assert pair[0] == pair[1]


def test_the_extraction_that_probes_lack(world, capfd):
    typed = ["task=probe_sweep", "data.source=store", "timestep=null", "dataset=cat_15"]
    closed = open_door("evaluate", [*QUIET, *typed, "backbone=lsun_horse"], world, capfd)
    door, words = proposed(closed.lines[-1])
    assert (door, words) == ("extract", ["dataset=cat_15", "backbone=lsun_horse", "block=all"])
    assert composed(door, words).dataset.name == "cat_15"


def test_what_is_proposed_is_what_is_missing(world, capfd):
    """An unlabelled folder under a name of its own: refused, extracted as proposed, learned."""
    words = [*LEARN, *OWN, "dataset.name=own20k", "backbone=toy_ddpm", "data.batch_size=16"]
    words = [word for word in words if "test_pictures" not in word]
    door, proposal = proposed(open_door("train", words, world, capfd).lines[-1])
    assert open_door(door, [*QUIET, *proposal], world, capfd).code == 0
    assert open_door("train", [*words, "hydra.run.dir=own"], world, capfd).code == 0


def test_a_bare_folder_learns_without_a_test(world, capfd):
    words = [*LEARN, "dataset=folder", "dataset.path=bare", "dataset.name=bare", "test=false"]
    words += ["backbone=toy_ddpm", "data.batch_size=16"]
    door, proposal = proposed(open_door("train", words, world, capfd).lines[-1])
    assert "split=train" in proposal
    assert open_door(door, [*QUIET, *proposal], world, capfd).code == 0
    assert open_door("train", [*words, "hydra.run.dir=of_bare"], world, capfd).code == 0
