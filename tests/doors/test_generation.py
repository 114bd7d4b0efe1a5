"""The real doors from samples to their distance, to noisy classifiers and a network of latents."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from diffdict.features.noise import Noise
from diffdict.metrics.frechet import Statistics
from diffdict.results.inputs.feature_statistics import write_statistics
from tests.doors import FACES, NET, QUIET, open_door
from tests.test_bad_input import tree

TOY = [*QUIET, "backbone=toy_ddpm", *NET, *FACES, "dataset.train_pictures=12"]
FID = [*TOY, "task=fid", "block=[0,1]", "data.num_workers=0", "model.kernel_pictures=8"]
DRAW = [*TOY, "task=samples", "data.number=6", "data.shard_size=4", "sampler.respacing=ddim2"]
SMALL = [
    *("dataset=class_folder", "dataset.path=colours", "dataset.image_size=16"),
    *("data.batch_size=6", "data.num_workers=0", "trainer.max_epochs=1", "data.crop_padding=1"),
]
DDAE = [
    *("backbone=ddae_small", "backbone.ch_mults=[1,1]", "backbone.is_attn=[false,false]"),
    *("backbone.n_blocks=1", "block=1"),
]
WRN = ["backbone.blocks_per_group=1", "backbone.channel_multiplier=1", "backbone.num_classes=2"]
DIT = [
    *("backbone=dit", "backbone.checkpoint=null", "backbone.vae=vae", "backbone.input_size=8"),
    *("backbone.hidden_size=32", "backbone.depth=2", "backbone.num_heads=2"),
    *("backbone.num_classes=5", "block=1"),
]


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def opened(door, words, folder, capfd):
    closed = open_door(door, words, folder, capfd)
    assert closed.code == 0, closed.lines


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Classes of colours, an autoencoder, and samples in all their forms."""
    folder = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(0)
    for split, channel, number in np.ndindex(2, 2, 6):
        place = folder / "colours" / ("train", "test")[split] / ("red", "green")[channel]
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 90, (16, 16, 3), dtype=np.uint8)
        pixels[..., channel] += 120
        Image.fromarray(pixels).save(place / f"{number}.png")
    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        norm_num_groups=4,
    ).save_pretrained(folder / "vae")
    pictures = random.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    for name, array in (("six", pictures), ("one", pictures[:1]), ("wide", pictures[:, :8, :8])):
        np.savez(folder / f"{name}.npz", arr_0=array)
    np.savez(folder / "no_stats.npz", mu=np.zeros(3))
    write_statistics_of_others(folder)
    (folder / "mixed").mkdir()
    for side in (16, 24):
        Image.new("RGB", (side, side)).save(folder / "mixed" / f"{side:02d}.png")
    torch.save({"weight": torch.zeros(2, 2)}, folder / "no_inception.pt")
    return folder


def write_statistics_of_others(folder):
    """Files of mu and sigma: of another width, network and set, none that are numbers, and torn."""
    wide = Statistics(torch.zeros(7, dtype=torch.float64), torch.eye(7, dtype=torch.float64))
    fits = Statistics(torch.zeros(32, dtype=torch.float64), torch.eye(32, dtype=torch.float64))
    place = {"timestep": 50, "block": 1, "noise": Noise(shared=False).facts()}
    of_others = {"backbone_sha256": "0" * 64, "dataset": "toy_faces", "pictures": 9, **place}
    write_statistics(folder / "others.npz", fits, of_others, torch.zeros(0, 32))
    np.savez(folder / "narrow.npz", mu=wide.mu, sigma=wide.sigma)
    np.savez(folder / "nan.npz", mu=np.full(32, np.nan), sigma=np.eye(32))
    whole = (folder / "others.npz").read_bytes()
    (folder / "torn.npz").write_bytes(whole[: len(whole) // 2])


def test_samples_are_drawn_and_measured(world, capfd):
    opened("extract", [*DRAW, "folder=npz"], world, capfd)
    opened("extract", [*DRAW, "folder=png", "model.format=png"], world, capfd)
    opened("evaluate", [*FID, "samples=npz", "hydra.run.dir=npz_fid"], world, capfd)
    opened("evaluate", [*FID, "samples=png", "hydra.run.dir=png_fid"], world, capfd)
    first, second = (rows_of(world / run / "cells.csv") for run in ("npz_fid", "png_fid"))
    assert len(list((world / "features" / "statistics").iterdir())) == 2
    for one, other in zip(first, second, strict=True):
        assert {**one, "samples": "png"} == other
        assert (one["real"], one["split"]) == ("toy_faces", "train")
        assert (one["pictures"], one["sampled"], one["biased"]) == ("12", "6", "True")
        assert float(one["frechet"]) > 0
    results = json.loads((world / "npz_fid" / "results.json").read_text())
    frechet = results["metrics"]["test/t0050-b00/frechet"]
    assert frechet == pytest.approx(float(first[0]["frechet"]), rel=1e-5)
    shutil.copytree(world / "npz", world / "part")
    (world / "part" / "samples_000004-000005.npz").unlink()
    closed = open_door("evaluate", [*FID, "samples=part", "hydra.run.dir=no"], world, capfd)
    assert closed.code == 2
    assert "4 of its 6 samples" in closed.lines[0]


def test_both_noisy_classifiers_learn_resume_and_are_measured_again(world, capfd):
    for task, words in (("noisy_classifier", DDAE), ("noisy_classifier_wrn", WRN)):
        learn = [*QUIET, f"task={task}", *SMALL, *words]
        opened("train", [*learn, f"hydra.run.dir={task}"], world, capfd)
        again = [*QUIET, f"ckpt_path={task}/last.ckpt", f"hydra.run.dir={task}_again"]
        opened("evaluate", again, world, capfd)
        first, second = (rows_of(world / run / "cells.csv") for run in (task, f"{task}_again"))
        assert first == second
        assert [row["timestep"] for row in first] == [str(t) for t in range(1, 1000, 50)]
        assert float(first[0]["sigma"]) < float(first[-1]["sigma"])
    task = "report.curve.task=[noisy_classifier,noisy_classifier_wrn]"
    words = ["report=curve", "x=timestep", "runs=[noisy_classifier,noisy_classifier_wrn]", task]
    opened("evaluate", [*words, "hydra.run.dir=both"], world, capfd)
    rows = rows_of(world / "both" / "curve.csv")
    assert {row["backbone"] for row in rows} == {"ddae_small", "wide_resnet"}
    assert (world / "both" / "curve.png").is_file()


def test_a_network_of_latents_draws_pictures_and_is_probed(world, capfd):
    draw = [*QUIET, *DIT, "task=samples", "dataset.image_size=16", "data.number=3"]
    draw += ["sampler.clip_denoised=false", "sampler.respacing=ddim2", "folder=dit"]
    opened("extract", draw, world, capfd)
    with np.load(world / "dit" / "samples_000000-000002.npz") as arrays:
        assert arrays["arr_0"].shape == (3, 16, 16, 3)
        assert arrays["label"].tolist() == [0, 1, 2]
    probe = [*QUIET, "experiment=dit_probe", *SMALL, *DIT, "data.val_share=0.25"]
    opened("train", [*probe, "hydra.run.dir=probe"], world, capfd)
    (row,) = rows_of(world / "probe" / "cells.csv")
    assert (row["timestep"], row["block"]) == ("121", "1")


ONE = "samples=six.npz block=1"
FID_OF_FACES = [*QUIET, *FACES, "task=fid", "samples=six.npz", "data.num_workers=0"]
HEAD = [*QUIET, "task=noisy_classifier", *SMALL, *DDAE]
MISTAKES = [
    ("evaluate", FID, "", "samples=FOLDER", "task=samples"),
    ("evaluate", FID, "samples=nowhere", "samples=nowhere is not there", "an .npz file"),
    ("evaluate", FID, "samples=one.npz", "hold 1 picture", "give more"),
    ("evaluate", FID, "samples=wide.npz", "are 8×8", "dataset.image_size=8"),
    ("evaluate", FID, "samples=six.npz statistics=six.npz block=1", "arr_0", "pytorch-fid"),
    ("evaluate", FID, "samples=mixed", "is 24×24, and the first", "one size"),
    ("evaluate", FID, f"{ONE} statistics=narrow.npz", "are of 7 values a picture", "same network"),
    ("evaluate", FID, f"{ONE} statistics=others.npz", "their backbone_sha256 is 0", "are made"),
    ("evaluate", FID, f"{ONE} statistics=nan.npz", "holds NaN or infinity", "write them"),
    ("evaluate", FID, f"{ONE} statistics=torn.npz", "is no whole .npz file", "again"),
    ("evaluate", FID, f"{ONE} statistics=gone.npz", "gone.npz", "leave it out"),
    ("evaluate", FID, "samples=six.npz statistics=narrow.npz", "and 2 places", "one block="),
    ("evaluate", FID_OF_FACES, "backbone.checkpoint=no_inception.pt", "no_inception.pt", "weight"),
    ("evaluate", FID_OF_FACES, "backbone.checkpoint=gone.pt", "gone.pt", "checkpoint"),
    ("evaluate", FID, "checkpoints=colours", "holds no step=….ckpt", "save_top_k=-1"),
    ("extract", DRAW, "task=features checkpoints=colours", "goes with task=samples", "features"),
    ("evaluate", FID, "samples=six.npz model.kernel_pictures=-1", "got -1", "kernel_pictures=0"),
    ("train", HEAD, "block=[1,2]", "looks at one block, got 2", "block=1"),
    ("train", HEAD, "timestep=0", "between 1 and 1000, got 0", "timestep="),
    ("train", HEAD, "model.decay=slow", "got 'slow'", "cosine"),
    ("train", HEAD, "task=noisy_classifier_wrn", "trains a WideResNet", "backbone=wide_resnet"),
    ("train", [*QUIET, "task=noisy_classifier", *DDAE, *FACES], "", "these have none", "cifar10"),
    ("extract", [*QUIET, *DIT, "task=samples"], "", "do not end at -1", "clip_denoised=false"),
    ("extract", [*QUIET, *DIT, "task=samples"], "backbone.vae=null", "denoises latents", "vae="),
    ("train", [*QUIET, "experiment=dit_probe", *SMALL, *DIT], "dataset.image_size=8", "got 8×8",
     "dataset.image_size=16"),
    ("train", [*QUIET, "experiment=dit_probe", *SMALL, *DIT], "data.val_share=null", "leaves no",
     "data.val_share=0.1"),
]  # fmt: skip


@pytest.mark.parametrize(("door", "before", "words", "said", "way_out"), MISTAKES)
def test_mistakes_are_one_line(world, capfd, door, before, words, said, way_out):
    there = tree(world)
    closed = open_door(door, [*before, *words.split(), "hydra.run.dir=mistaken"], world, capfd)
    shutil.rmtree(world / "mistaken", ignore_errors=True)
    assert closed.code == 2, closed.lines
    assert len(closed.lines) == 1
    assert said in closed.lines[0]
    assert way_out in closed.lines[0]
    assert tree(world) == there
