"""Codes through the real doors: learned, stored, drawn with, looked at, and on two ranks."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from diffdict.backbones.guided_unet import GuidedUNet
from tests.doors import FACES, QUIET, ROOT, enter, open_door

NET = [
    *("backbone.num_channels=32", "backbone.num_res_blocks=1", "backbone.channel_mult=[1,1]"),
    *("backbone.attention_resolutions=[]", "backbone.image_size=16", "backbone.checkpoint=net.pt"),
]
CODES = [*QUIET, *FACES, "backbone=pdae", "backbone.checkpoint=run/last.ckpt", "backbone.name=diti"]
TRAIN = [
    *(*QUIET, *NET, *FACES, "task=pdae", "data.num_workers=0", "trainer.max_steps=2"),
    *("model.encoder.code=8", "model.segments={number:4,stages:[500,1000],dims:[3,5]}"),
    *("model.autoencode.pictures=2", "model.autoencode.inversion=linspace3"),
    *("model.autoencode.sampling=linspace3", "model.optimizer.lr=1e-2"),
]


def denoiser(path):
    """A network of milliseconds that predicts something."""
    torch.manual_seed(0)
    flags = {"attention_resolutions": "", "use_scale_shift_norm": True, "learn_sigma": True}
    net = GuidedUNet(16, 32, 1, "1,1", **flags, predict="v")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    torch.save(net.state_dict(), path)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A folder with a run of two steps."""
    folder = tmp_path_factory.mktemp("codes")
    denoiser(folder / "net.pt")
    words = [*TRAIN, "data.batch_size=2", "callbacks.codes.every_n_steps=2"]
    assert enter("train", [*words, "callbacks.codes.steps=3", "hydra.run.dir=run"], folder) == 0
    return folder


@pytest.fixture(scope="module")
def stored(learned):
    """With the codes and their parts in a store; nothing is said of the network but its file."""
    assert enter("extract", [*CODES, "block=all"], learned) == 0
    return learned


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_training_leaves_tables_and_sheets(learned):
    assert len(table(learned / "run/timesteps.csv")) == 1000
    rows = table(learned / "run/autoencoding.csv")
    assert [row["noise"] for row in rows] == ["inferred", "other", "without"]
    assert all(-1 <= float(row["ssim"]) <= 1 for row in rows)
    assert (learned / "run/codes/step_0000002.png").is_file()


def test_codes_and_their_parts_are_stored_and_learned_from(stored, capfd):
    folder = stored / "features/toy_faces/diti/train"
    assert {"code", "stage0", "stage1"} < {path.name for path in folder.iterdir()}
    words = ["task=sae", "sae.scale=4", "sae.k=2", "data.batch_size=2", "data.val_pictures=1"]
    closed = open_door("train", [*CODES, *words, "trainer.max_steps=2"], stored, capfd)
    assert closed.code == 0, closed.lines


def test_latents_are_set_beside_attributes_and_codes(stored, capfd):
    words = [*QUIET, *NET, *FACES, "task=sae", "block=1", "sae.scale=1", "sae.k=2"]
    words += ["data.source=live", "data.batch_size=64", "data.val_pictures=1"]
    words += ["trainer.max_steps=2", "model.concepts=null", "report=latent_attributes"]
    words += ["report.latent_attributes.codes=diti", "hydra.run.dir=sae"]
    closed = open_door("train", words, stored, capfd)
    assert closed.code == 0, closed.lines
    rows = table(stored / "sae/latent_attributes.csv")
    assert {"glasses", "yaw"} <= {row["attribute"] for row in rows}
    assert {"latents", "random", "channels", "chance"} <= set(rows[0])
    assert {"code", "stage0", "stage1"} <= set(table(stored / "sae/latent_codes.csv")[0])
    closed = open_door("train", [*words[:-2], "report.latent_attributes.codes=no"], stored, capfd)
    assert (closed.code, len(closed.lines)) == (2, 1)
    assert "backbone.name=no block=all" in closed.lines[0]


def test_a_run_is_evaluated_again_and_drawn(learned, capfd):
    words = [*QUIET, "ckpt_path=run/last.ckpt", "report=[grid,denoise]"]
    words += ["report.codes.respacing=linspace3", "report.codes.ancestral=3", "hydra.run.dir=e"]
    words += ["report.grid.pictures=1", "report.denoise.points=4", "report.denoise.rows=1"]
    closed = open_door("evaluate", words, learned, capfd)
    assert closed.code == 0, closed.lines
    names = {path.name for path in (learned / "e").iterdir()}
    assert {"autoencoding.png", "denoise.png", "denoise_gap.csv", "denoise_gap.png"} <= names
    assert "grid.png" not in names
    assert table(learned / "e/autoencoding.csv") == table(learned / "run/autoencoding.csv")
    rows = table(learned / "e/denoise_gap.csv")
    assert [int(row["timestep"]) for row in rows] == [0, 333, 666, 999]


def test_one_picture_is_drawn_again(learned, capfd):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(learned / "me.png")
    words = [*QUIET, "ckpt_path=run/last.ckpt", "picture=me.png", "hydra.run.dir=p"]
    closed = open_door("evaluate", words, learned, capfd)
    assert closed.code == 0, closed.lines
    sheet = Image.open(learned / "p/picture/autoencoding.png")
    assert sheet.width > 10 * sheet.height / 2


def test_parts_are_exchanged_and_attributes_moved(learned, capfd):
    """A direction of all attributes reads both sheets; the tables stand beside them."""
    many = ["dataset.train_pictures=40", "dataset.test_pictures=8", "hydra.run.dir=all"]
    words = [*CODES, *many, "task=direction", "data.batch_size=8", "trainer.max_epochs=1"]
    closed = open_door("train", words, learned, capfd)
    assert closed.code == 0, closed.lines
    words = [*QUIET, "ckpt_path=run/last.ckpt", "report=[counterfactual,manipulate]"]
    words += [f"report.{word}.respacing=linspace3" for word in ("counterfactual", "manipulate")]
    words += ["report.counterfactual.measured=1", "report.counterfactual.probe_pictures=8"]
    words += ["report.manipulate.direction=all/last.ckpt", "report.manipulate.measured=2"]
    words += ["report.manipulate.attributes=[glasses]", "report.manipulate.pictures=1"]
    closed = open_door("evaluate", [*words, "hydra.run.dir=sheets"], learned, capfd)
    assert closed.code == 0, closed.lines
    rows = table(learned / "sheets/counterfactual.csv")
    assert {row["part"] for row in rows} == {"stage 0", "stage 1"}
    assert rows[0]["attribute"] == "mean"
    assert set(rows[0]) >= {"followed", "others_moved", "random_followed", "random_moved"}
    (row,) = table(learned / "sheets/manipulate.csv")
    assert (row["run"], row["attribute"], row["entries"]) == ("sheets", "glasses", "8")
    for name in ("counterfactual", "manipulate"):
        assert (learned / f"sheets/{name}.png").is_file()


def test_an_encoder_of_two_views_is_a_row_of_the_tables(learned, capfd):
    words = [*QUIET, *FACES, "task=simclr", "model.encoder.code=8", "data.num_workers=0"]
    words += ["data.batch_size=2", "trainer.max_steps=2", "hydra.run.dir=simclr"]
    closed = open_door("train", words, learned, capfd)
    assert closed.code == 0, closed.lines
    words = [*QUIET, *FACES, "backbone=code_encoder", "backbone.checkpoint=simclr/last.ckpt"]
    words += ["backbone.code=8", "backbone.name=simclr"]
    closed = open_door("extract", words, learned, capfd)
    assert closed.code == 0, closed.lines
    assert (learned / "features/toy_faces/simclr/train/code").is_dir()


@pytest.mark.faults
def test_two_ranks_learn_what_one_does(tmp_path):
    """The same draws and pictures; SGD, for Adam magnifies rounding of tiny gradients."""
    denoiser(tmp_path / "net.pt")
    learned = {}
    for trainer, size in (("cpu", 2), ("ddp_sim", 1)):
        words = [*TRAIN, f"trainer={trainer}", f"data.batch_size={size}", "callbacks.codes=null"]
        words += ["~model.optimizer.eps", "model.optimizer._target_=torch.optim.SGD"]
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *words, f"hydra.run.dir={trainer}"],
            cwd=tmp_path,
            text=True,
            capture_output=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        content = torch.load(tmp_path / trainer / "last.ckpt", weights_only=True)
        learned[trainer] = content["state_dict"], content["gap_sums"]
    for key, value in learned["cpu"][0].items():
        torch.testing.assert_close(learned["ddp_sim"][0][key], value, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(learned["ddp_sim"][1], learned["cpu"][1], atol=1e-5, rtol=1e-3)
