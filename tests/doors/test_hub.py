"""The real doors on every family of backbone=hub: from a folder to concepts and samples."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

import diffdict.run
from diffdict.cli.mistakes import find_mistake
from diffdict.cli.paths import folder
from diffdict.errors import UserError
from diffdict.features.store import FeatureStore
from diffdict.run.build import Run
from tests.tiny_pipelines import FAMILIES, save_pipeline, told

FACES = ["dataset.image_size=64", "dataset.train_pictures=3", "dataset.test_pictures=2"]
BLOCKS = {"sd": "up_blocks.0", "sdxl": "mid_block", "flux": "single_transformer_blocks.1"}
FEW = ["sae.scale=2", "sae.k=2", "data.batch_size=16", "data.val_pictures=1"]


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """`opened("extract", …)`: the run behind that command, in this process, in the folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFDICT_CHECKPOINTS", "checkpoints")  # a run says it anew
    instance = HydraConfig.instance()
    before = instance.cfg

    def build(door: str, *words: str) -> Run:
        with initialize_config_dir(folder("conf"), version_base="1.3"):
            words = ["hydra.runtime.output_dir=out", "trainer=cpu", "logger=none", *words]
            words += ["callbacks=none"] if door == "train" else ["callbacks.progress=null"]
            cfg = compose(door, words, return_hydra_config=True)
        instance.set_config(cfg)
        with open_dict(cfg):
            del cfg.hydra
        return diffdict.run.build.build(cfg)

    yield build
    instance.cfg = before


def network(family: str, at) -> list[str]:
    """The words for it."""
    save_pipeline(family, at / family)
    words = told(family, at / family)
    return [
        *("backbone=hub", f"backbone.checkpoint={at / family}", f"backbone.name={family}"),
        *(f"backbone.{key}={value}" for key, value in words.items()),
        f"block={BLOCKS.get(family, 'transformer_blocks.1')}",
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_from_a_folder_to_concepts_and_segments(opened, tmp_path, family):
    words = [*network(family, tmp_path), *FACES]
    run = opened("extract", *words, "timestep=[50,400]", "data.num_workers=0")
    run.trainer.predict(run.model, run.data, return_predictions=False)
    store = FeatureStore.open(tmp_path / f"features/toy_faces/{family}/train")
    assert len([name for name in store.streams if name.startswith("t0")]) == 2
    run = opened("train", "task=sae", *words, *FEW, "trainer.max_steps=2")
    run.trainer.fit(run.model, run.data)
    figures = run.trainer.test(run.model, run.data, verbose=False)[0]
    assert any("miou" in name or "iou" in name for name in figures)
    members = ["model.members=1", "trainer.max_epochs=1", "trainer.limit_train_batches=2"]
    run = opened("train", "task=pixel_mlp", *words, "timestep=[50,400]", *members)
    run.trainer.fit(run.model, run.data)
    assert "test/miou" in run.trainer.test(run.model, run.data, verbose=False)[0]


def test_features_of_stored_latents_are_those_of_the_pictures(opened, tmp_path, monkeypatch):
    words = [*network("sd", tmp_path), *FACES, "timestep=[50,400]", "data.num_workers=0"]
    words += ["storage=fp32", "split=test"]
    with pytest.raises(UserError, match=r"No latents of toy_faces .* task=latents"):
        opened("extract", *words, "latents=true")
    run = opened("extract", "task=latents", *words)
    run.trainer.predict(run.model, run.data, return_predictions=False)
    for root, more in (("plain", []), ("stored", ["latents=true"])):
        root = f"paths.features={root if root == 'plain' else 'features'}"
        run = opened("extract", *words, root, *more)
        if more:  # no autoencoder runs
            monkeypatch.setattr(run.model.net.encoder.vae, "encode", None)
        run.trainer.predict(run.model, run.data, return_predictions=False)
    plain, stored = (
        FeatureStore.open(tmp_path / root / "toy_faces/sd/test") for root in ("plain", "features")
    )
    assert plain.identity == stored.identity
    for picture in range(2):
        for name, x in plain[picture].items():
            # attributes may be unknown
            torch.testing.assert_close(stored[picture][name], x, rtol=0, atol=0, equal_nan=True)
    other = [*words, "latents=true", "backbone.posterior=sample", "paths.features=features"]
    run = opened("extract", *other)
    with pytest.raises(UserError, match="another autoencoder or posterior"):
        run.trainer.predict(run.model, run.data, return_predictions=False)


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_a_dictionary_learned_live_steers_what_is_drawn(opened, tmp_path, family):
    words = [*network(family, tmp_path), *FACES]
    run = opened("train", "task=sae", *words, *FEW, "trainer.max_steps=2", "data.source=live")
    run.trainer.fit(run.model, run.data)
    run.trainer.save_checkpoint("last.ckpt")
    few = ["sampler=pipeline", "sampler.steps=2", "data.number=2"]
    plain = drawn(opened("extract", "task=samples", *words, *few), f"samples/{family}")["arr_0"]
    assert plain.shape == (2, 64, 64, 3)
    steer = ["task=steering", "dictionary=last.ckpt", "latents=[0,1,2]", "amount=[1,50]"]
    pairs = drawn(opened("extract", *words, *few, *steer), f"samples/{family}_steered")
    assert np.array_equal(pairs["off"], plain)
    assert np.array_equal(pairs["on"][:, 0], plain)
    assert not np.array_equal(pairs["on"][:, 1], plain)


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_a_dictionary_is_worth_the_same_live_and_from_a_store(opened, tmp_path, family):
    """The same tokens either way, in float32; live ones leave nothing on disk."""
    words = [*network(family, tmp_path), *FACES, "data.num_workers=0", "storage=fp32"]
    run = opened("extract", *words)
    run.trainer.predict(run.model, run.data, return_predictions=False)
    learn = [*words[:-2], "task=sae", "model.concepts=null", *FEW, "trainer.max_steps=9"]
    stored = opened("train", *learn)
    stored.trainer.fit(stored.model, stored.data)
    fvu = stored.trainer.test(stored.model, stored.data, verbose=False)[0]["test/fvu"]
    live = [*learn, "data.source=live", "data.dtype=fp32", "paths.features=nowhere"]
    run = opened("train", *live)
    same = run.trainer.test(stored.model, run.data, verbose=False)[0]["test/fvu"]
    assert same == pytest.approx(fvu, rel=1e-4)
    run.trainer.fit(run.model, run.data)
    learned = run.trainer.test(run.model, run.data, verbose=False)[0]["test/fvu"]
    assert learned == pytest.approx(fvu, rel=1e-2), "the same order of the same tokens"
    assert not (tmp_path / "nowhere").exists()


def drawn(run: Run, folder: str) -> dict[str, np.ndarray]:
    """What a run of samples has left."""
    run.trainer.predict(run.model, run.data, return_predictions=False)
    (path,) = Path(folder).glob("*.npz")
    return dict(np.load(path))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["block=up_blocks.7"], "has no block 'up_blocks.7'. Its blocks: down_blocks.0 (resnets.0"),
        (["timestep=1000"], "needs a timestep between 0 and 999, got 1000"),
        (["backbone.taps=middle"], "output, input, residual, modulated, attention, got 'middle'"),
        (["backbone.posterior=mode"], "backbone.posterior is one of mean, sample"),
        (["backbone.dtype=int8"], "backbone.dtype is one of fp32, bf16, fp16"),
        (["backbone.guidance=-1"], "a weight from 0 on, got -1"),
        (["dataset.image_size=60"], "sides are divisible by 8, got 60"),
        (["backbone.prompt=a face"], "has no model_index.json and so no text encoders"),
        (["backbone.prompt=none.npz"], "is no .npz of arrays"),
        (["backbone.offload=gpu"], "backbone.offload is one of none, whole, layers, got 'gpu'"),
        (["backbone.words=[cat]"], "words.npz is a file: backbone.prompt=TEXT"),
        (["block=up_blocks.0.cross.cat"], "has no block 'up_blocks.0.cross.cat'. Its blocks: down"),
    ],
)
def test_a_mistake_is_one_line(opened, tmp_path, words, said):
    with pytest.raises(Exception) as wrong:  # noqa: PT011 - Hydra's own around it
        opened("extract", *network("sd", tmp_path), *FACES, *words)
    assert said in find_mistake(wrong.value)
    assert not (tmp_path / "features").exists()
