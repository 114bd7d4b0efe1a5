"""The kept weights: written when better and only then, in half precision, read as a backbone."""

import math

import pytest
import pytorch_lightning as pl
import torch
from safetensors import safe_open

from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.diffusion.objectives import Objective
from diffdict.errors import UserError
from diffdict.results.weights import KeepWeights, export_weights
from diffdict.tasks.diffusion import Exported

FLAGS = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": [1],
    "attention_resolutions": [8],
}


class Judged(pl.Trainer):
    """A trainer that has just validated."""

    callback_metrics, global_step = {}, 0

    def __init__(self, folder, score, step):
        super().__init__(accelerator="cpu", logger=False, default_root_dir=folder)
        self.callback_metrics, self.global_step = {"val/loss": torch.tensor(score)}, step


class Task(pl.LightningModule):
    """As far as the callback looks at it."""

    def __init__(self):
        super().__init__()
        self.ema, self.objective = GuidedUNet(**FLAGS), Objective(predict="v")

    def exported(self):
        return Exported(self.ema, {})


def kept_step(folder):
    with safe_open(folder / "tiny.safetensors", framework="pt") as file:
        assert "predict='v'" in file.metadata()["objective"]
        return int(file.metadata()["step"])


def test_only_a_better_network_is_written(tmp_path):
    keep, task = KeepWeights("tiny"), Task()
    kept = []
    for step, score in enumerate([0.5, 0.7, math.nan, 0.4, 0.4]):
        keep.on_validation_end(Judged(tmp_path, score, step), task)
        kept.append(kept_step(tmp_path))
    assert kept == [0, 0, 0, 3, 3]
    resumed = KeepWeights("tiny")
    resumed.load_state_dict(keep.state_dict())
    resumed.on_validation_end(Judged(tmp_path, 0.45, 9), task)
    assert kept_step(tmp_path) == 3


def test_the_file_is_a_backbone_to_half_precision(tmp_path):
    torch.manual_seed(0)
    net = GuidedUNet(**FLAGS)
    path = export_weights(net, tmp_path / "tiny.safetensors", {"about": "a test"})
    loaded = GuidedUNet(**FLAGS, checkpoint=str(path))
    for key, value in net.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, atol=1e-7, rtol=2**-10)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["about"] == "a test"
        assert '"num_channels": 32' in file.metadata()["flags"]
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118


def test_a_diverged_network_is_refused_and_the_old_file_stays(tmp_path):
    net = GuidedUNet(**FLAGS)
    path = export_weights(net, tmp_path / "tiny.safetensors", {})
    before = path.read_bytes()
    with torch.no_grad():
        net.out[2].weight[0, 0, 0, 0] = 1e6
    with pytest.raises(UserError, match=r"out.2.weight does not fit"):
        export_weights(net, path, {})
    assert path.read_bytes() == before


def test_a_figure_that_nobody_logs_is_named(tmp_path):
    with pytest.raises(UserError, match=r"val/mse, which was not logged; logged: val/loss"):
        KeepWeights("tiny", monitor="val/mse").on_validation_end(Judged(tmp_path, 0.5, 0), Task())
