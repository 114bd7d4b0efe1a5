"""Further averages follow their own recursion, go on where they stopped, and are backbones."""

import pytest
import pytorch_lightning as pl
import torch

from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.errors import UserError
from diffdict.run.kept_averages import KeepAverages
from diffdict.training.average import average_decay
from tests.tasks.test_diffusion import FLAGS, model, pictures

DECAYS = [0.5, 0.0]


class Recursion(pl.Callback):
    """The first further average by hand."""

    def __init__(self):
        self.average = None

    def on_train_batch_end(self, trainer, pl_module, *_):
        step = trainer.global_step - 1
        decay = average_decay(DECAYS[0], step)
        weights = {key: x.detach().double() for key, x in pl_module.net.named_parameters()}
        before = self.average or {k: x.double() for k, x in self.first.items()}
        self.average = {k: decay * before[k] + (1 - decay) * x for k, x in weights.items()}

    def on_fit_start(self, trainer, pl_module):
        self.first = {key: x.detach().clone() for key, x in pl_module.ema.named_parameters()}


def learned(folder, steps, resume=None, seed=0):
    kept, by_hand = KeepAverages(DECAYS), Recursion()
    last = pl.callbacks.ModelCheckpoint(folder, filename="{step}", every_n_train_steps=steps)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        callbacks=[kept, by_hand, last],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )
    task = model(seed=seed)
    trainer.fit(task, pictures(), ckpt_path=resume, weights_only=True)
    return task, kept, by_hand


def test_each_follows_its_decay_and_goes_on_where_it_stopped(tmp_path):
    task, kept, by_hand = learned(tmp_path / "whole", 4)
    for key, value in kept.averages[0].named_parameters():
        torch.testing.assert_close(value.double(), by_hand.average[key], atol=1e-7, rtol=1e-5)
    for key, value in kept.averages[1].named_parameters():
        assert torch.equal(value, task.net.state_dict()[key]), "0 is the moving network itself"
    learned(tmp_path / "broken", 2)
    resume = tmp_path / "broken/step=2.ckpt"
    _, again, _ = learned(tmp_path / "on", 4, resume=resume, seed=1)
    for key, value in kept.averages.state_dict().items():
        assert torch.equal(value, again.averages.state_dict()[key]), key
    net = GuidedUNet(**FLAGS, checkpoint=str(tmp_path / "on/ema_0.5.safetensors"))
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, kept.averages[0].state_dict()[key].half().float())


def test_what_is_no_decay_is_refused():
    for decays in ([1.0], [-0.1], [0.9, 0.9]):
        with pytest.raises(UserError, match=r"decays lie in \[0, 1\), each once"):
            KeepAverages(decays)
    with pytest.raises(UserError, match=r"decays=\[0\.9\], here they are \[\]"):
        KeepAverages().load_state_dict({"decays": [0.9], "averages": []})
