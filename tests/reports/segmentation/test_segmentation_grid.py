"""Pictures of a segmenter: files that hold its predictions, sheets, confusion, one picture."""

from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from diffdict.backbones.pixels import Pixels
from diffdict.data.images import ImageDataModule
from diffdict.data.toy_faces import ToyFaces
from diffdict.features.pixels import PixelDataModule
from diffdict.features.pixels.codes import CodedMaps
from diffdict.reports.drawing.chart import write_chart
from diffdict.reports.drawing.chosen import GREY
from diffdict.reports.grid import Grid
from diffdict.reports.segmentation import segmentation_grid
from diffdict.reports.segmentation.confusion import draw_confusion
from diffdict.reports.segmentation.segmentation_grid import SegmentationGrid, file_names
from diffdict.reports.segmentation.sheet import TORN, heat
from diffdict.sae import saelens
from diffdict.sae.load import load_dictionary
from diffdict.sae.relu import Relu
from diffdict.tasks.deeplab import DeepLab
from diffdict.tasks.pixel_mlp import PixelMLP

SIDE = 16
FACES = partial(ToyFaces, image_size=SIDE, train_pictures=2, val_pictures=1, test_pictures=5)


def faces(**options):
    asked = {"timestep": None, "block": "pixels", "source": "live", "dtype": "fp32"}
    return PixelDataModule(dataset=FACES, backbone=partial(Pixels, SIDE), **asked, **options)


def segmenter(data, **options):
    """Members that are sure of different things."""
    facts = {key: data.facts[key] for key in ("d_in", "num_classes", "class_names", "palette")}
    one = PixelMLP(partial(torch.optim.Adam, lr=1e-3), **facts, members=3, **options)
    torch.manual_seed(0)
    for parameter in one.net.parameters():
        parameter.data.normal_()
    return one


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """A folder with the pictures of two tests, the task and its data."""
    folder, data = tmp_path_factory.mktemp("tested"), faces()
    one = segmenter(data, vote="soft")
    for _ in range(2):
        callbacks = [SegmentationGrid(str(folder), rows=2), Grid(str(folder))]
        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing"), False)
        trainer = pl.Trainer(accelerator="cpu", callbacks=callbacks, **quiet)
        trainer.test(one, data, verbose=False)
    return folder, one, data


def test_files_hold_the_predictions(tested):
    folder, one, data = tested
    palette = np.array(data.facts["palette"])
    for picture in data.labelled("test"):
        found, name = one.predict(picture.maps), f"{picture.index:05d}"
        labels = np.load(folder / "grid/labels" / f"{name}.npy")
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, found.soft.numpy())
        mask = np.asarray(Image.open(folder / "grid/masks" / f"{name}.png"))
        np.testing.assert_array_equal(mask, palette[labels])
        drawn = np.asarray(Image.open(folder / "grid/uncertainty" / f"{name}.png"))
        np.testing.assert_array_equal(drawn, heat(found.uncertainty))
    assert len(list((folder / "grid/labels").iterdir())) == 5


def test_sheets_are_full_but_the_last_and_nothing_is_overwritten(tested):
    folder, _, _ = tested
    for name in ("grid", "grid-2"):
        sheets = sorted(path.name for path in (folder / name).glob("pictures-*.png"))
        assert sheets == ["pictures-00000.png", "pictures-00002.png", "pictures-00004.png"]
        sizes = [Image.open(folder / name / sheet).size for sheet in sheets]
        assert sizes[0] == sizes[1]
        assert sizes[2][1] < sizes[0][1]
        assert (folder / name / "confusion.png").is_file()
    assert sorted(path.name for path in folder.iterdir()) == ["grid", "grid-2"]


def test_some_classes_alone(tested, tmp_path, monkeypatch):
    """The others are grey, only these are judged, pictures without them left out, files whole."""
    _, one, data = tested
    draw = Mock(wraps=segmentation_grid.draw_sheet)
    monkeypatch.setattr(segmentation_grid, "draw_sheet", draw)
    names, palette = data.facts["class_names"], data.facts["palette"]
    asked = [names.index(name) for name in ("hat", "beard")]
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing"), False)
    report = SegmentationGrid(str(tmp_path), pictures=2, classes=["hat", "beard"])
    trainer = pl.Trainer(accelerator="cpu", callbacks=[report], **quiet)
    trainer.test(one, data, verbose=False)
    expected = []
    for picture in data.labelled("test"):
        labels = one.labels(one.predict(picture.maps))
        shown = sum((m == label) for m in (picture.mask, labels) for label in asked) > 0
        if shown.any():
            right = float((labels == picture.mask)[shown].double().mean())
            expected.append((picture, labels, 100 * right))
    assert len(expected) > 2, "so that a limit is felt"
    _, lines, said, colours = draw.call_args.args
    assert said == ["hat", "beard", "other classes"]
    assert colours == [*(palette[label] for label in asked), GREY]
    table = np.array([c if label in asked else GREY for label, c in enumerate(palette)])
    for line, (picture, labels, right) in zip(lines, expected[:2], strict=True):
        assert f"{right:.1f} % of these classes right" in line.caption
        np.testing.assert_array_equal(line.cells[1], table[picture.mask])
        np.testing.assert_array_equal(line.cells[2], table[labels])
    assert len(list((tmp_path / "grid/labels").iterdir())) == 5


def test_other_tasks_are_left_alone(tmp_path):
    class Other(pl.LightningModule):
        def test_step(self, batch, batch_idx):
            return {"mask": batch.mask}

    callback = SegmentationGrid(str(tmp_path))
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing"), False)
    trainer = pl.Trainer(accelerator="cpu", callbacks=[callback], **quiet)
    trainer.test(Other(), faces(), verbose=False)
    assert list(tmp_path.iterdir()) == []


def test_uncertainty_is_dark_to_bright():
    shades = heat(torch.tensor([[0.0, TORN / 2, TORN, 2.0]])).sum(-1)[0]
    assert (np.diff(shades.astype(int)) >= 0).all()
    assert shades[0] < shades[1] < shades[2] == shades[3]


def test_a_confusion_has_a_row_for_what_there_is():
    pixels = torch.tensor([[3, 1, 0], [0, 0, 0], [0, 7, 993]])
    (axes,) = draw_confusion(pixels, ["one", "two", "three"]).axes
    rows, columns = (
        [text.get_text() for text in labels]
        for labels in (axes.get_yticklabels(), axes.get_xticklabels())
    )
    assert (rows, columns) == (["one", "three"], ["one", "two", "three"])
    (mesh,) = axes.collections
    expected = [[75, 25, 0], [0, 0.7, 99.3]]
    np.testing.assert_allclose(mesh.get_array(), expected)
    assert [text.get_text() for text in axes.texts] == ["75", "25", "", "", "1", "99"]
    framed = {(int(each.get_x()), int(each.get_y())) for each in axes.patches}
    assert framed == {(0, 0), (2, 1)}, "what is right"
    assert axes.get_xlabel() == "taken for (% of the class's pixels)"


def test_a_class_may_have_any_name(tmp_path):
    names = ["$\\frac{", "a_b^{c$$d}", "<&>", "x" * 90]
    figure = draw_confusion(torch.ones(4, 4, dtype=torch.int64), names)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == names
    write_chart(figure, tmp_path / "confusion.png")
    assert "a_b^{c$$d}" in (tmp_path / "confusion.svg").read_text()


# ---------------------------------------------------------------- one picture


@pytest.mark.parametrize("coded", [False, True])
def test_one_picture_is_looked_at(tmp_path, coded):
    sae = None
    if coded:
        saelens.export(Relu(5, latents=12), tmp_path / "dictionary", {})
        sae = str(tmp_path / "dictionary")
    data = faces(sae=sae)
    one = segmenter(data, sae=data.facts.get("sae")).eval()
    picture = next(iter(data.labelled("test")))
    image, folder = data.picture("test", 0), tmp_path / "out"
    folder.mkdir()
    rows = one.look(image, picture.maps, folder)
    maps = CodedMaps(picture.maps, load_dictionary(sae).sae) if coded else picture.maps
    labels = one.predict(maps).majority
    np.testing.assert_array_equal(np.load(folder / "labels.npy"), labels.numpy())
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert [row["share"] for row in rows] == sorted((row["share"] for row in rows), reverse=True)
    names = {one.class_names[label] for label in labels.unique().tolist()}
    assert {row["class"] for row in rows} == names
    assert {path.name for path in folder.iterdir()} == {
        *("labels.npy", "mask.png", "uncertainty.png", "sheet.png")
    }


def test_files_have_the_pictures_own_names():
    names = ["horse_1.png", "a/b.JPG", "a/b.png", "toy_faces/test/00003", "/x.npz[4]", "../u.png"]
    files = ["horse_1", "00001", "00002", "00003", "00004", "00005"]  # two are called a/b
    assert file_names(names) == files
    assert file_names(names[:2]) == ["horse_1", "a/b"]


def test_another_segmenter_gets_what_the_ensemble_gets(tmp_path):
    """DeepLabV3: labels, colours, sheets, confusion; no uncertainty, for it says none."""
    data = ImageDataModule(FACES, batch_size=2)
    facts = {key: data.facts[key] for key in ("num_classes", "class_names", "palette")}
    torch.manual_seed(0)
    one = DeepLab(partial(torch.optim.Adam, lr=1e-3), **facts, depth=50, width=0.0625)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing"), False)
    report = SegmentationGrid(str(tmp_path), rows=4)
    trainer = pl.Trainer(accelerator="cpu", callbacks=[report], **quiet)
    trainer.test(one, data, verbose=False)
    for index in range(5):
        labels = np.load(tmp_path / f"grid/labels/{index:05d}.npy")
        image = data.split("test")[index]["image"]
        with torch.no_grad():
            np.testing.assert_array_equal(labels, one.segment(one.chosen, image[None])[0].numpy())
    assert sorted(path.name for path in (tmp_path / "grid").iterdir()) == [
        *("confusion.png", "confusion.svg", "index.csv", "labels", "masks"),
        *("pictures-00000.png", "pictures-00004.png"),
    ]
