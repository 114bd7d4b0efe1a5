"""`dataset=pascal_part`: classes, painting, fingerprints, and what is not as published."""

import numpy as np
import pytest
import torch

from diffdict.data.pascal_part import OBJECTS, PARTS, PascalParts, part_class
from diffdict.errors import UserError
from tests.data.test_published_layouts import opened
from tests.pascal_folder import HEIGHT, TRAIN, annotate, horse, pascal, rows, thing

QUADRUPED = "head leye reye lear rear torso neck tail"
LEGS = "lfuleg lflleg rfuleg rflleg lbuleg lblleg rbuleg rblleg"
VEHICLE = (
    "frontside leftside rightside backside roofside leftmirror rightmirror fliplate bliplate "
    "door_1 wheel_10 headlight_3 window_20"
)
PAWS = f"{QUADRUPED} nose lfleg lfpa rfleg rfpa lbleg lbpa rbleg rbpa"
PUBLISHED = {  # every name of the authors' part2ind.m, of numbered ones one
    "aeroplane": "body stern lwing rwing tail engine_1 wheel_1",
    "bicycle": "fwheel bwheel saddle handlebar chainwheel headlight_1",
    "bird": "head leye reye beak torso neck lwing rwing lleg lfoot rleg rfoot tail",
    "boat": "",
    "bottle": "cap body",
    "bus": VEHICLE,
    "car": VEHICLE,
    "cat": PAWS,
    "chair": "",
    "cow": f"{QUADRUPED} muzzle lhorn rhorn {LEGS}",
    "diningtable": "",
    "dog": f"{PAWS} muzzle",
    "horse": f"{QUADRUPED} muzzle {LEGS} lfho rfho lbho rbho",
    "motorbike": "fwheel bwheel handlebar saddle headlight_1",
    "person": (
        "head leye reye lear rear lebrow rebrow nose mouth hair torso neck llarm luarm lhand "
        "rlarm ruarm rhand llleg luleg lfoot rlleg ruleg rfoot"
    ),
    "pottedplant": "pot plant",
    "sheep": f"{QUADRUPED} muzzle lhorn rhorn {LEGS}",
    "sofa": "",
    "train": (
        "head hfrontside hleftside hrightside hbackside hroofside headlight_1 coach_2 "
        "cfrontside_1 cleftside_1 crightside_1 cbackside_1 croofside_1"
    ),
    "tvmonitor": "screen",
}


def column(pictures: PascalParts, index: int = 0) -> list[str]:
    """The class of each row."""
    mask = pictures[index]["mask"]
    assert torch.equal(mask, mask[:, :1].expand(-1, HEIGHT))
    return [pictures.class_names[label] for label in mask[:, 0].tolist()]


def test_an_object_and_its_parts_are_classes(tmp_path):
    pascal(tmp_path)
    counts = {split: len(opened("pascal_part", tmp_path, split)) for split in ("train", "val")}
    assert counts == {"train": 3, "val": 0}
    pictures = opened("pascal_part", tmp_path, "train")
    assert (pictures.num_classes, pictures.ignore_label) == (11, None)
    assert len(pictures.palette) == 11
    assert pictures[0]["image"].shape == (3, HEIGHT, HEIGHT)
    assert column(pictures) == [
        *(["eye"] + ["head"] * 3 + ["background"] * 2),  # the rider sits in front
        *(["horse"] * 2 + ["leg"] * 2 + ["horse"] * 2 + ["background"] * 4),
    ]
    test = opened("pascal_part", tmp_path, "test")
    assert test.picture_name(0) == "2008_000052.jpg"
    assert column(test) == ["horse"] * 12 + ["background"] * 4
    assert torch.equal(test.labels(0)["mask"], test[0]["mask"])


def test_without_an_object_all_are_classes(tmp_path):
    pascal(tmp_path)
    pictures = opened("pascal_part", tmp_path, "train", object="null")
    assert (len(pictures), pictures.class_names) == (4, ["background", *OBJECTS])
    assert column(pictures) == [
        *(["horse"] * 4 + ["person"] * 2 + ["horse"] * 6 + ["background"] * 4)
    ]
    assert column(pictures, 3) == ["background"] * 2 + ["boat"] * 2 + ["background"] * 12
    boats = opened("pascal_part", tmp_path, "train", object="boat")
    assert (boats.class_names, boats.picture_name(0)) == (["background", "boat"], "2008_000051.jpg")


def test_pictures_of_voc_segmentation_are_some_of_them(tmp_path):
    pascal(tmp_path)
    chosen = opened("pascal_part", tmp_path, "train", image_set="Segmentation")
    assert [chosen.picture_name(i) for i in range(len(chosen))] == [f"{TRAIN[2]}.jpg"]
    with pytest.raises(UserError, match=r"no .*ImageSets/Segmentation/val\.txt"):
        opened("pascal_part", tmp_path, "test", image_set="Segmentation")
    with pytest.raises(UserError, match="image_set=Layout is unknown: it is Main or Segmentation"):
        opened("pascal_part", tmp_path, "train", image_set="Layout")


@pytest.mark.parametrize("name", OBJECTS)
def test_every_published_part_is_a_class(name):
    """And every class is a published part; numbers and sides of legs, eyes and wings are gone."""
    assert list(PUBLISHED) == list(OBJECTS)
    classes = [part.replace("_", " ") for part in PARTS[name].split()]
    assert len(set(classes)) == len(classes)
    assert {part_class(own) for own in PUBLISHED[name].split()} == set(classes)


def test_the_fingerprint_is_of_pictures_parts_and_classes(tmp_path):
    pascal(tmp_path)
    one = opened("pascal_part", tmp_path, "train").fingerprint
    assert opened("pascal_part", tmp_path, "train").fingerprint == one
    assert opened("pascal_part", tmp_path, "train", object="null").fingerprint != one
    annotate(tmp_path, "2008_000008", horse(tail=rows(8, 9)))
    assert opened("pascal_part", tmp_path, "train").fingerprint != one


def test_what_is_not_as_published_is_one_line(tmp_path):
    pascal(tmp_path)
    pictures = opened("pascal_part", tmp_path, "train")
    name, small = "2008_000008", rows(0, 2, (8, 12))
    file = tmp_path / f"Annotations_Part/{name}.mat"
    for said, *things in (
        (rf"A mask of {file} is 12×8, its picture is 24×16", thing("horse", small)),
        ("is 12×8, its picture is 24×16", horse(head=small)),
        ("in part_name a part of horse, got lwing_1", horse(lwing_1=rows(0, 1))),
        ("needs 1 to 20 in class_ind, got 21", {**horse(), "class_ind": 21.0}),
        ("a number in class_ind, got horse", {**horse(), "class_ind": "horse"}),
        ("height × width in mask, got", {**horse(), "mask": "none"}),
        ("structs in parts, got an array of size 1×2", {**horse(), "parts": np.ones((1, 2))}),
    ):
        annotate(tmp_path, name, *things)
        with pytest.raises(UserError, match=f"{said}.*npack"):
            pictures[0]
    for value in (3.0, {"objects": 1.0}):
        annotate(tmp_path, name, annotation=value)
        with pytest.raises(UserError, match="needs one struct anno, got the variables annotation"):
            pictures[0]
    annotate(tmp_path, name, anno={"imname": name})
    with pytest.raises(UserError, match="needs structs in objects, got None"):
        pictures[0]
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"{file} is no MATLAB 5 file"):
        pictures[0]
    annotate(tmp_path, name)
    assert column(pictures) == ["background"] * 16, "no object is annotated"


def test_missing_files_are_one_line(tmp_path):
    pascal(tmp_path)
    with pytest.raises(UserError, match=r"dataset\.object=hrose is no .* Did you mean horse\?"):
        opened("pascal_part", tmp_path, "train", object="hrose")
    with pytest.raises(UserError, match=r"no .*bird_train\.txt, PASCAL VOC's list"):
        opened("pascal_part", tmp_path, "train", object="bird")
    with pytest.raises(UserError, match="has 0 pictures for train"):
        opened("pascal_part", tmp_path, "train", object="cow")
    with pytest.raises(UserError, match="no split 'tset'"):
        opened("pascal_part", tmp_path, "tset")
    with pytest.raises(UserError, match=r"published without val.*dataset\.splits"):
        opened("pascal_part", tmp_path, "val", val_pictures=1)
    with pytest.raises(UserError, match="No JPEGImages of pascal_part in"):
        opened("pascal_part", tmp_path / "nowhere", "train")
    (tmp_path / "Annotations_Part/2008_000008.mat").unlink()
    with pytest.raises(UserError, match=r"names 2008_000008, and .*\.mat is not there"):
        opened("pascal_part", tmp_path, "train")
    (tmp_path / "JPEGImages/2008_000052.jpg").unlink()
    with pytest.raises(UserError, match=r"names 2008_000052, and .*\.jpg is not there"):
        opened("pascal_part", tmp_path, "test")
