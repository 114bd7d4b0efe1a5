"""dataset=hf on folders of parquet: rows, labels, classes, and bytes as the identity."""

import io
import sys

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from diffdict.data.hub_pictures import HubPictures
from diffdict.errors import UserError

ALL = {"image": "img", "mask": "seg", "label": "kind"}
COUNT = 6


def png(pixels: np.ndarray) -> dict:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def drawn(index: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(index)
    shape = (16, 16)
    return rng.integers(0, 255, (*shape, 3), np.uint8), rng.integers(0, 3, shape, np.uint8)


def write(folder, split="train", count=COUNT, names=("cat", "dog"), change=None):
    """A parquet file as the hub's own are."""
    pictures = [drawn(index + 100 * (split != "train")) for index in range(count)]
    if change is not None:
        pictures[change][0][0, 0] ^= 1
    kind = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    features = {"img": datasets.Image(), "seg": datasets.Image(), "kind": kind}
    features["text"] = datasets.Value("string")
    rows = {
        "img": [png(image) for image, _ in pictures],
        "seg": [png(mask) for _, mask in pictures],
        "kind": [index % 2 for index in range(count)],
        "text": ["a caption"] * count,
    }
    folder.mkdir(exist_ok=True)
    whole = datasets.Dataset.from_dict(rows, datasets.Features(features))
    whole.to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    write(tmp_path / "set")
    write(tmp_path / "set", "validation", 2)
    return tmp_path / "set"


def opened(folder, split="train", **options):
    asked = {"columns": ALL, "num_classes": 3, "image_size": 16, **options}
    splits = {"val": "validation"}
    return HubPictures("mine", str(folder), split, splits=splits, **asked)


@pytest.mark.parametrize("stream", [False, True])
def test_rows_are_pictures_with_their_labels(folder, stream):
    pictures = opened(folder, stream=stream, train_pictures=5)
    assert len(pictures) == 5
    assert pictures.label_kinds == ["mask", "label"]
    assert (pictures.picture_classes, pictures.num_classes) == (["cat", "dog"], 3)
    for index in range(5):
        image, mask = drawn(index)
        sample = pictures[index]
        expected = torch.from_numpy(image).permute(2, 0, 1).float() / 255 * 2 - 1
        torch.testing.assert_close(sample["image"], expected)
        assert torch.equal(sample["mask"], torch.from_numpy(mask).long())
        assert sample["label"] == index % 2
    assert len(opened(folder, "val")) == 2


def test_a_stream_and_the_whole_set_are_the_same_pictures(folder):
    whole, some = opened(folder, train_pictures=4), opened(folder, stream=True, train_pictures=4)
    assert whole.fingerprint == some.fingerprint
    assert opened(folder).fingerprint != whole.fingerprint


def test_the_fingerprint_is_of_the_bytes(folder, tmp_path):
    write(tmp_path / "same")
    write(tmp_path / "other", change=3)
    one = opened(folder).fingerprint
    assert opened(tmp_path / "same").fingerprint == one
    assert opened(tmp_path / "other").fingerprint != one
    assert opened(folder, image_size=8).fingerprint != one


def test_pictures_alone_and_classes_alone(folder):
    plain = opened(folder, columns={"image": "img"}, num_classes=None)
    assert plain.label_kinds == []
    assert set(plain[0]) == {"image", "index"}
    classes = opened(folder, columns={"image": "img", "label": "kind"}, num_classes=None)
    assert (classes.label_kinds, list(classes.class_names)) == (["label"], ["cat", "dog"])


MISTAKES = [
    ({"columns": {"image": "picture"}}, r"no column 'picture', it has img, seg, kind, text"),
    ({"columns": {"label": "kind"}}, r"must name the picture's"),
    ({"columns": {"image": "img", "caption": "text"}}, r"image, mask, label, got caption"),
    ({"num_classes": None}, r"dataset\.num_classes="),
    ({"num_classes": 2}, r"holds label 2, its 2 classes"),
    ({"stream": True}, r"dataset\.train_pictures=500"),
    ({"split": "tset"}, r"no split 'tset'"),
    ({"split": "test"}, r"no parquet file of split test .*it has .*train-00000"),
    ({"path": None}, r"dataset\.path=ORG/NAME"),
    ({"columns": {"image": "text"}}, r"has no image in it|cannot be read"),
]


@pytest.mark.parametrize(("change", "said"), MISTAKES)
def test_a_mistake_is_one_line(folder, change, said):
    asked = {"path": str(folder), "split": "train", "columns": ALL, "num_classes": 3, **change}
    with pytest.raises(UserError, match=said) as told:
        HubPictures("mine", asked.pop("path"), asked.pop("split"), image_size=16, **asked)[0]
    assert "\n" not in str(told.value)


def test_a_set_that_cannot_be_reached_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"nobody/nothing cannot be read"):
        HubPictures("mine", "nobody/nothing", "train")


def test_without_the_extra_one_line(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'diffdict\[datasets\]'"):
        opened(folder)
