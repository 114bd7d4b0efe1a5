"""Segmenters on two ranks: each learns the same as one process, and they share the pictures."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch.multiprocessing import ProcessRaisedException

from diffdict.backbones.pixels import Pixels
from diffdict.data.toy_faces import ToyFaces
from diffdict.features.pixels import PixelDataModule
from diffdict.tasks.pixel_mlp import PixelMLP

pytestmark = pytest.mark.faults

SIDE, CLASSES = 16, 15
FACES = partial(ToyFaces, image_size=SIDE, train_pictures=2, val_pictures=1)


class Watch(pl.Callback):
    """Every rank ends with the same members."""

    def on_test_end(self, trainer, pl_module):
        state = pl_module.net.state_dict().values()
        own = torch.cat([x.double().flatten() for x in state])
        everyone = pl_module.all_gather(own).view(trainer.world_size, -1)
        assert (everyone == everyone[0]).all()


def run(folder, pictures, **ranks):
    """A training in which members stop at different times, and its test."""
    asked = {"timestep": None, "block": "pixels", "source": "live", "dtype": "fp32"}
    made = {"dataset": partial(FACES, test_pictures=pictures), "backbone": partial(Pixels, SIDE)}
    data = PixelDataModule(**made, **asked, members=3, alike=True, batch_size=32)
    adam = partial(torch.optim.Adam, lr=1e-2)
    one = PixelMLP(adam, 5, CLASSES, members=3, patience=3, patience_from=1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=20,
        default_root_dir=folder,
        callbacks=[Watch()],
        use_distributed_sampler=False,
        **quiet,
        **ranks,
    )
    trainer.fit(one, data)
    figures = trainer.test(one, data, verbose=False)[0]
    return one, figures


def test_two_ranks_are_one(tmp_path):
    """Weights to the bit, and figures of pictures that do not share out evenly."""
    (whole, ours), (shared, theirs) = (
        run(tmp_path / name, 5, **ranks)
        for name, ranks in (("one", {}), ("two", {"strategy": "ddp_fork", "devices": 2}))
    )
    assert whole.running == 0
    for key, x in whole.state_dict().items():
        if not key.startswith("metrics"):
            assert torch.equal(shared.state_dict()[key], x), key
    assert theirs == pytest.approx(ours, abs=1e-6)


def test_a_rank_without_a_picture_is_refused(tmp_path):
    with pytest.raises(ProcessRaisedException, match=r"fewer than the 2 ranks: trainer\.devices=1"):
        run(tmp_path, 1, strategy="ddp_fork", devices=2)
