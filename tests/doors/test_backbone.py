"""The real doors on networks that never saw noise: MAE, SwAV, pixels, and one of the user's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

import diffdict.run
from diffdict.backbones.base import Backbone
from diffdict.backbones.mae import MAE
from diffdict.backbones.swav import SwAV
from diffdict.cli.mistakes import find_mistake
from diffdict.cli.paths import folder
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.features.store import FeatureStore
from diffdict.run.build import Run
from tests.processes import PATIENCE

ROOT = Path(__file__).parents[2]
FACES = ["dataset.image_size=32", "dataset.train_pictures=4", "dataset.test_pictures=2"]
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 13, "num_heads": 2}


@pytest.fixture
def opened(place, monkeypatch):
    """`opened("extract", …)`: the run behind that command, in this process, in the folder."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("DIFFDICT_CHECKPOINTS", "checkpoints")  # a run says it anew
    instance = HydraConfig.instance()
    before = instance.cfg

    def build(door: str, *words: str) -> Run:
        with initialize_config_dir(folder("conf"), version_base="1.3"):
            words = [*FACES, "hydra.runtime.output_dir=out", "trainer=cpu", "logger=none", *words]
            words += ["callbacks=none"] if door == "train" else ["callbacks.progress=null"]
            cfg = compose(door, words, return_hydra_config=True)
        instance.set_config(cfg)
        with open_dict(cfg):
            del cfg.hydra
        return diffdict.run.build.build(cfg)

    yield build
    instance.cfg = before


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with released files of small networks, as their authors leave them."""
    folder = tmp_path_factory.mktemp("backbones")
    torch.manual_seed(0)
    mae = MAE(**TINY).state_dict() | {"mask_token": torch.zeros(1, 1, 8)}
    torch.save({"model": mae}, folder / "mae.pth")
    swav = {f"module.{key}": x for key, x in SwAV(1 / 16).state_dict().items()}
    torch.save({"state_dict": swav}, folder / "swav.pth")
    levels = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(32, layers_per_block=1, block_out_channels=(32, 32), **levels)
    unet.save_pretrained(folder / "pipeline/unet")
    return folder


MAE_WORDS = [
    *("backbone=mae", "backbone.checkpoint=mae.pth", "backbone.embed_dim=32"),
    *("backbone.depth=13", "backbone.num_heads=2"),
]
SWAV_WORDS = ["backbone=swav", "backbone.checkpoint=swav.pth", "backbone.width=0.0625"]


@pytest.fixture(scope="module")
def nets(place) -> dict[str, Backbone]:
    """The same networks from those files."""
    mae = MAE(**TINY, normalise=True, checkpoint=str(place / "mae.pth"))
    swav = SwAV(1 / 16, image_size=32, normalise=True, checkpoint=str(place / "swav.pth"))
    return {"mae": mae.eval(), "swav": swav.eval()}


@pytest.mark.parametrize(
    ("words", "blocks"),
    [
        ([*MAE_WORDS, "block=[3,12]"], {3: "b03", 12: "b12"}),
        ([*SWAV_WORDS, "timestep=[50,150]"], {block: block for block in SwAV(1 / 16).shapes}),
    ],
    ids=["mae", "swav"],
)
def test_what_is_stored_is_what_the_network_sees_without_a_timestep(
    opened, place, nets, words, blocks
):
    run = opened("extract", *words, "storage=fp32")
    run.trainer.predict(run.model, run.data, return_predictions=False)
    net = nets[words[0].removeprefix("backbone=")]
    store = FeatureStore.open(place / f"features/toy_faces/{net.name}/train")
    assert [*store.streams] == [*blocks.values(), "attributes", "mask"]
    assert (store.identity["backbone_sha256"], store.identity["noise"]) == (net.sha256, None)
    picture = ToyFaces("train", image_size=32)[0]["image"]
    with torch.no_grad():
        seen = net.features(picture[None], blocks=list(blocks))
    for block, stream in blocks.items():
        torch.testing.assert_close(store[0][stream], seen[block][0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "words",
    [
        [*SWAV_WORDS, "block=layer1.2", "timestep=50", "data.source=live"],
        [*MAE_WORDS, "block=12", "data.source=live"],
        ["backbone=pixels", "data.source=live"],
        ["backbone=hub", "backbone.checkpoint=pipeline", "block=2", "data.source=live"],
    ],
    ids=["swav", "mae", "pixels", "hub"],
)
def test_a_dictionary_learns_from_each_live(opened, words):
    few = ["sae.scale=2", "sae.k=2", "data.batch_size=16", "data.val_pictures=1"]
    run = opened("train", "task=sae", *words, *few, "trainer.max_steps=2")
    run.trainer.fit(run.model, run.data)
    assert run.trainer.global_step == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["backbone=mae", "backbone.depth=1"],
            "No weights of mae were released for imagenet, only for lsun_bedroom",
        ),
        ([*MAE_WORDS, "dataset.image_size=64"], "of 32×32 pictures, this network of 64×64"),
        ([*MAE_WORDS[:3], "block=3"], "backbone.depth=13 (the network has 24)"),
        ([*MAE_WORDS, "block=13"], "mae has no block 13. Its blocks: 0, 1, "),
        (["backbone=swav", "backbone.checkpoint=mae.pth"], "the file holds a MAE ViT"),
        (["backbone=hub"], "needs a folder that diffusers saved: backbone.checkpoint=…"),
        ([*SWAV_WORDS[:2], "backbone.width=0.125"], "It has width 0.0625 in the file, 0.125 here"),
    ],
)
def test_a_mistake_is_one_line(opened, words, said):
    with pytest.raises(Exception) as told:  # noqa: PT011 - Hydra's own around it
        opened("extract", *words)
    assert said in find_mistake(told.value)


def test_no_extraction_is_proposed_that_has_no_weights(opened):
    words = ["task=sae", "backbone=mae", "paths.features=none"]
    with pytest.raises(UserError, match="No weights of mae were released for imagenet"):
        opened("train", *words)
    with pytest.raises(UserError, match="No features of toy_faces"):
        opened("train", *words, "domain=ffhq")


MINE = """
import torch

class MyNet(torch.nn.Module):
    def __init__(self, width=2):
        super().__init__()
        torch.manual_seed(0)
        self.stem = torch.nn.Conv2d(3, width, 4, 4)

    def features(self, images, timestep=None, blocks=None, noise=None):
        return {"stem": self.stem(images)}

class Half(torch.nn.Module):
    pass
"""


@pytest.fixture
def mine(place, monkeypatch) -> str:
    """A module of the user's in the folder."""
    (place / "mypackage.py").write_text(MINE)
    monkeypatch.syspath_prepend(place)
    return "backbone._target_=mypackage.MyNet"


def test_a_network_of_ones_own_is_stored_learned_from_and_found_again(opened, place, mine):
    run = opened("extract", mine, "+backbone.width=6", "split=train")
    run.trainer.predict(run.model, run.data, return_predictions=False)
    store = FeatureStore.open(place / "features/toy_faces/mynet/train")
    assert store.streams["stem"].channels == 6
    assert (store.streams["stem"].height, store.identity["noise"]) == (8, None)
    few = ["sae.scale=2", "sae.k=2", "data.batch_size=16", "data.val_pictures=1"]
    words = ["task=sae", mine, "+backbone.width=6", *few, "trainer.max_steps=2", "test=false"]
    run = opened("train", *words)
    run.trainer.fit(run.model, run.data)
    assert run.data.facts["d_in"] == 6
    live = opened("train", *words, "data.source=live")
    assert live.data.facts["maps"] == run.data.facts["maps"] == ["stem"]


def test_the_door_itself_opens_on_it_from_its_folder(place, mine):
    command = [sys.executable, str(ROOT / "extract.py"), mine, *FACES, "split=test", "trainer=cpu"]
    env = {**os.environ, "PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=place, env=env, text=True, capture_output=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert "features/toy_faces/mynet/test" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["backbone._target_=nowhere.Net"], "backbone._target_=nowhere.Net cannot be imported"),
        (
            ["backbone._target_=mypackage.Half"],
            "half has no method features(self, images, timestep",
        ),
        (["backbone._target_=mypackage.Nets"], "mypackage.Nets cannot be imported"),
        (
            ["backbone._target_=mypackage.MyNet", "block=3"],
            "mynet has no block 3. Its blocks: stem",
        ),
        (["backbone._target_=mypackage.MyNet", "+backbone.height=3"], "argument 'height'"),
        (["backbone._target_=mypackage.MyNet", "backbone.checkpoint=mae.pth"], "not fit MyNet"),
    ],
)
def test_a_mistake_about_ones_own_is_one_line(opened, mine, words, said):
    with pytest.raises(Exception) as told:  # noqa: PT011 - Hydra's own around it
        opened("extract", *words)
    assert said in find_mistake(told.value)
