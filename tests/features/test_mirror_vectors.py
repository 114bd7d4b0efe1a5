"""Vectors of each mirror image made once: the same heads, and no network in later epochs."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from diffdict.backbones.code_encoder import CodeEncoder
from diffdict.data.toy_faces import ToyFaces
from diffdict.features.probe_images import ProbeImages
from diffdict.run.interruption.counters import ExactCounters
from diffdict.tasks.linear_probe import LinearProbe

FACES = partial(ToyFaces, image_size=16, train_pictures=20, val_pictures=6, test_pictures=8)
EPOCHS = 4


class Counted(CodeEncoder):
    """Knows how many pictures it has seen."""

    seen = 0

    def codes(self, images):
        self.seen += len(images)
        return super().codes(images)


def learned(max_epochs=EPOCHS, crop_padding=0, **options):
    data = ProbeImages(
        FACES,
        target="attributes",
        batch_size=8,
        flip=True,
        crop_padding=crop_padding,
        drop_last=False,
        test_each_epoch=True,
        seed=3,
    )
    keys = ("num_classes", "class_names", "target", "attributes")
    facts = {key: data.facts[key] for key in keys}
    torch.manual_seed(0)
    net, adam = Counted(16, 8, [32, 32]), partial(torch.optim.Adam, lr=1e-2)
    probe = LinearProbe(net, adam, **facts, block="code", epoch="best")
    machine = pl.Trainer(
        accelerator="cpu",
        logger=False,
        max_epochs=max_epochs,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[ExactCounters()],
        **options,
    )
    machine.fit(probe, data)
    return probe, net, machine, data


def test_the_heads_are_those_of_encoding_every_epoch():
    once, net, machine, data = learned()
    assert net.seen == 2 * 20 + 6 + 8
    again, other, *_ = learned(limit_train_batches=3)  # all there are
    assert other.seen == EPOCHS * (20 + 6 + 8)
    theirs = again.state_dict()
    for key, value in once.state_dict().items():
        torch.testing.assert_close(value, theirs[key], atol=1e-6, rtol=0, equal_nan=True)
    machine.test(once, data, verbose=False)
    assert net.seen == 2 * 20 + 6 + 8  # those of the test were looked at beside the held out
    mirrored = data.mirrored(1, range(20))
    assert set(mirrored.tolist()) == {False, True}


@pytest.mark.parametrize("options", [{"max_epochs": 1}, {"crop_padding": 1}, {"max_steps": 3}])
def test_what_changes_or_comes_once_is_looked_at_as_it_comes(options):
    probe, net, *_ = learned(**options)
    assert probe.kept.data is None
    assert net.seen > 0
