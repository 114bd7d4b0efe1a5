"""LFW in its published form: people of view 1, numbers by person, pictures resized and cut."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffdict.data.lfw import LfwDataset
from diffdict.errors import UserError

TRAIN = [("Ann_Bo", 2), ("Cy_Dee", 1), ("Eva_Fu", 1), ("Gus_Ha", 1)]
TEST = [("Ian_Jo", 2)]
HEAD = "title\n#\tperson\timagenum\tMale\tSmiling\n"


@pytest.fixture
def lfw(tmp_path):
    generator, rows = np.random.default_rng(0), []
    for people, file in ((TRAIN, "peopleDevTrain.txt"), (TEST, "peopleDevTest.txt")):
        lines = "".join(f"{person}\t{count}\n" for person, count in people)
        (tmp_path / file).write_text(f"{len(people)}\n{lines}")
        for person, count in people:
            folder = tmp_path / "lfw_funneled" / person
            folder.mkdir(parents=True)
            for number in range(1, count + 1):
                pixels = generator.integers(0, 255, (250, 250, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{person}_{number:04d}.jpg")
                rows.append(f"{person.replace('_', ' ')}\t{number}\t{len(rows)}.5\t-1\n")
    del rows[1]  # of Ann Bo's second picture
    (tmp_path / "lfw_attributes.txt").write_text(HEAD + "".join(rows))
    return tmp_path


def made(path, split="train", **options):
    return LfwDataset("lfw", str(path), split, **options)


def test_people_are_held_out_and_pictures_without_a_row_left_out(lfw):
    splits = {split: made(lfw, split, val_people=3) for split in ("train", "val", "test")}
    names = {split: [one.picture_name(i) for i in range(len(one))] for split, one in splits.items()}
    assert names == {
        "train": [
            "lfw_funneled/Cy_Dee/Cy_Dee_0001.jpg",
            "lfw_funneled/Eva_Fu/Eva_Fu_0001.jpg",
        ],
        "val": [
            "lfw_funneled/Ann_Bo/Ann_Bo_0001.jpg",
            "lfw_funneled/Gus_Ha/Gus_Ha_0001.jpg",
        ],
        "test": [
            "lfw_funneled/Ian_Jo/Ian_Jo_0001.jpg",
            "lfw_funneled/Ian_Jo/Ian_Jo_0002.jpg",
        ],
    }
    assert splits["train"][1]["attributes"].tolist() == [3.5, -1]
    assert splits["train"].fingerprint != splits["test"].fingerprint
    assert len(made(lfw, "val", val_people=None)) == 0
    assert len(made(lfw, "train", val_people=None)) == 4
    assert [a.kind for a in splits["test"].attributes] == ["number"] * 2


@pytest.mark.parametrize(("size", "larger", "start"), [(64, 70, 3), (128, 140, 6)])
def test_a_picture_is_resized_then_cut(lfw, size, larger, start):
    pictures = made(lfw, "test", image_size=size)
    whole = Image.open(lfw / pictures.picture_name(0)).resize((larger, larger), 2)
    expected = torch.from_numpy(np.array(whole)).permute(2, 0, 1).float() / 255 * 2 - 1
    cut = expected[:, start : start + size, start : start + size]
    assert torch.equal(pictures[0]["image"], cut)


def test_what_is_missing_is_said_with_where_it_lies(lfw):
    with pytest.raises(UserError, match=r"dataset\.val_people .* got 1"):
        made(lfw, val_people=1)
    (lfw / "lfw_funneled" / "Cy_Dee" / "Cy_Dee_0001.jpg").unlink()
    with pytest.raises(UserError, match=r"no picture 1 of Cy_Dee.*lfw-funneled\.tgz"):
        made(lfw)
    (lfw / "peopleDevTrain.txt").write_text("9\nAnn_Bo\t2\n")
    with pytest.raises(UserError, match="must hold a count"):
        made(lfw)
    (lfw / "peopleDevTrain.txt").unlink()
    with pytest.raises(UserError, match=r"vis-www.*peopleDevTrain\.txt goes there"):
        made(lfw)
    (lfw / "lfw_attributes.txt").unlink()
    with pytest.raises(UserError, match=r"columbia\.edu.*lfw_attributes\.txt, to be put there"):
        made(lfw)
    with pytest.raises(UserError, match=r"dataset\.path="):
        LfwDataset("lfw", None, "train")
