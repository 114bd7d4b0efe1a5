"""The callback that writes a contact sheet of what a run saw."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import DataLoader

from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.reports.drawing.chosen import GREY
from diffdict.reports.drawing.contact_sheet import GAP, contact_sheet
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


def test_some_classes_are_shown_and_pictures_without_them_left_out(tmp_path):
    data = Faces()
    glasses, beard = (data.faces.class_names.index(name) for name in ("glasses", "beard"))
    trainer, looker = run(tmp_path, classes=["glasses", "beard"], columns=6, scale=1)
    trainer.predict(looker, data)
    items = [data.faces[i] for i in range(6)]
    asked = torch.tensor([glasses, beard])
    shown = [one for one in items if torch.isin(one["mask"], torch.cat([asked, asked + 1])).any()]
    assert 0 < len(shown) < 6, "some faces have neither"
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    palette = np.array([GREY if i not in asked else c for i, c in enumerate(data.faces.palette)])
    for place, one in enumerate(shown):
        for row, labels in enumerate((one["mask"], (one["mask"] - 1).clamp(min=0)), start=1):
            y, x = GAP + row * 66, GAP + place * (64 + GAP)
            np.testing.assert_array_equal(sheet[y : y + 64, x : x + 64], palette[labels])
    assert sheet.shape[1] == GAP + len(shown) * (64 + GAP)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["moon"], "has 'moon', classes are background, skin"),
        ("iris", r"is a list of names, got 'iris': \[iris\]"),
        ([], "is a list of names"),
    ],
)
def test_classes_that_are_none_are_refused_before_anything_runs(tmp_path, classes, said):
    trainer, looker = run(tmp_path, classes=classes)
    looker.stop_at = 0
    with pytest.raises(UserError, match=f"report.grid.classes {said}"):
        trainer.predict(looker, Faces())


def test_pictures_without_classes_have_none_to_choose_from(tmp_path):
    trainer, looker = run(tmp_path, classes=["iris"])
    data = Faces()
    data.facts = {"class_names": ()}
    with pytest.raises(UserError, match=r"these pictures have none \(got iris\): leave it"):
        trainer.predict(looker, data)


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
