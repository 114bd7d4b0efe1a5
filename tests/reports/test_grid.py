"""Contact sheets, and the callback that writes one."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import DataLoader

from diffdict.data.toy_faces import ToyFaces
from diffdict.reports.grid import GAP, Grid, contact_sheet, rainbow

PALETTE = [(10, 20, 30), (200, 100, 0)]


def test_a_sheet_shows_each_picture_and_mask_where_it_belongs():
    images = torch.linspace(-1, 1, 3).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    masks = torch.stack([torch.zeros(4, 4), torch.ones(4, 4), torch.full((4, 4), 255)]).long()
    sheet = np.asarray(contact_sheet(images, masks, PALETTE, columns=2, scale=2))
    first, mask = sheet[GAP : GAP + 8, GAP : GAP + 8], sheet[GAP + 10 : GAP + 18, GAP : GAP + 8]
    assert (first == 0).all()
    assert (mask == PALETTE[0]).all()
    right = 8 + 2 * GAP
    assert (sheet[GAP + 10 : GAP + 18, right : right + 8] == PALETTE[1]).all()
    below = 2 * GAP + 20
    assert (sheet[below : below + 8, GAP : GAP + 8] == 255).all()
    assert (sheet[below + 10 : below + 18, GAP : GAP + 8] == 0).all(), "an ignored label is black"


def test_a_blended_mask_lets_the_picture_through():
    sheet = contact_sheet(
        torch.ones(1, 3, 4, 4), torch.zeros(1, 4, 4).long(), PALETTE, scale=1, opacity=0.5
    )
    assert sheet.getpixel((GAP + 1, GAP + 7)) == (132, 138, 142)


def test_legend_captions_and_predictions_make_it_taller():
    faces = ToyFaces("val", val_pictures=4)
    images = torch.stack([face["image"] for face in faces])
    masks = torch.stack([face["mask"] for face in faces])
    plain = contact_sheet(images)
    masked = contact_sheet(images, masks, faces.palette)
    guessed = contact_sheet(images, masks, faces.palette, predictions=masks)
    named = contact_sheet(images, masks, faces.palette, class_names=faces.class_names)
    told = contact_sheet(images, captions=["a", "b", "c", "d"])
    assert plain.height < told.height < masked.height < named.height < guessed.height
    assert len({sheet.width for sheet in (plain, masked, guessed, named, told)}) == 1


def test_rainbow_colours_are_distinct():
    assert len(set(rainbow(40))) == 40
    assert rainbow(0) == []


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
