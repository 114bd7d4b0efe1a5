"""The callback that writes a contact sheet of what a run saw."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import DataLoader

from diffdict.data.toy_faces import ToyFaces
from diffdict.reports.drawing.sheet import contact_sheet
from diffdict.reports.grid import Grid


class Looker(pl.LightningModule):
    """Answers each picture with the mask that has every label one lower."""

    def predict_step(self, batch, batch_idx):
        if batch_idx == self.stop_at:
            raise RuntimeError("interrupted")
        return {"mask": (batch["mask"] - 1).clamp(min=0)}

    test_step = predict_step
    stop_at = None


class Faces(pl.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.faces = ToyFaces("test", test_pictures=6)
        self.facts = {"palette": self.faces.palette, "class_names": self.faces.class_names}

    def predict_dataloader(self):
        return DataLoader(self.faces, batch_size=4)


def run(folder, **keys):
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Grid(str(folder), **keys)],
    )
    looker = Looker()
    return trainer, looker


def test_the_callback_writes_pictures_masks_and_predictions(tmp_path, capsys):
    trainer, looker = run(tmp_path / "out", pictures=5, columns=3, scale=1)
    data = Faces()
    trainer.predict(looker, data)
    path = tmp_path / "out" / "grid.png"
    assert str(path) in capsys.readouterr().out
    items = [data.faces[i] for i in range(5)]
    masks = torch.stack([item["mask"] for item in items])
    expected = contact_sheet(
        torch.stack([item["image"] for item in items]),
        masks,
        data.faces.palette,
        columns=3,
        scale=1,
        predictions=(masks - 1).clamp(min=0),
        class_names=data.faces.class_names,
    )
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(expected))


def test_an_interrupted_run_writes_nothing(tmp_path):
    trainer, looker = run(tmp_path / "out")
    looker.stop_at = 1
    with pytest.raises(RuntimeError, match="interrupted"):
        trainer.predict(looker, Faces())
    assert not (tmp_path / "out").exists()


def test_a_run_that_makes_pictures_shows_its_own(tmp_path):
    class Painter(Looker):
        def predict_step(self, batch, batch_idx):
            return {"image": -batch["image"]}

    trainer, _ = run(tmp_path, pictures=2, scale=1)
    data = Faces()
    trainer.predict(Painter(), data)
    images = torch.stack([-data.faces[i]["image"] for i in range(2)])
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "grid.png")), np.asarray(contact_sheet(images, scale=1))
    )
