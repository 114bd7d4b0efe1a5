"""What is wrong with sets of pictures: attributes, LMDB files, LFW's people, Pascal's parts."""

import io
import os
import shutil
from pathlib import Path

import lmdb
import numpy as np
from PIL import Image

from tests.pascal_folder import annotate, pascal, rows, thing

COUNT = 4  # of an LMDB file
TABLES = {  # attributes.csv of folders with pictures 0 to 2 a split
    "told": "name,glasses,beard\n0.png,1,0\n1.png,0,1\n2.png,1,1\n",
    "same_names": "name,hat,hat\n0.png,1,0\n1.png,0,1\n2.png,1,1\n",
    "few_rows": "name,hat\n0.png,1\n1.png,0\n",
    "two_rows": "name,hat\n0.png,1\n1.png,0\n1.png,1\n2.png,0\n",
    "mixed": "name,hat\n0.png,-1\n1.png,0\n2.png,1\n",
    "worded": "name,hat\n0.png,yes\n1.png,0\n2.png,1\n",
    "constant": "name,hat\n0.png,1\n1.png,1\n2.png,1\n",
    "unknown": "name,hat\n0.png,\n1.png,\n2.png,\n",
}
LIST = "4\nBald Hat\n" + "".join(f"{i:06d}.jpg {-1 if i % 2 else 1} 1\n" for i in range(COUNT))
PEOPLE = "2\nAnn_Bo\t1\nCy_Dee\t1\n"
ANSWERS = "title\n#\tperson\timagenum\tMale\tSmiling\nAnn Bo\t1\t0.5\t-1\nCy Dee\t1\t-0.5\t1\n"
LMDB = "dataset=lmdb dataset.path="
WHOLE = "whole_file dataset."
LFW = "dataset=lfw dataset.path="
PASCAL = "dataset=pascal_part dataset.path="
RANGES = "dataset.ranges={train:[0,3],test:"
ROWS = [
    *(
        ("evaluate attributes", f"dataset.path={words}", *said)
        for words, *said in (
            ("plain", "of folder have none", "attributes.csv"),
            ("same_names", "need names that differ", "'hat', 'hat'"),
            ("few_rows", "2 rows and none for 2.png", "matched by name"),
            ("two_rows", "two rows for 1.png", "take one out"),
            ("mixed", "is -1, 0 and 1", "0 and 1 or -1 and 1"),
            ("worded", "'yes' of 0.png", "empty where unknown"),
            ("constant", "known of hat", "is one value"),
            ("unknown", "known of hat", "is one value"),
            ("told data.attributes=[glases]", "'glases'", "Did you mean glasses?"),
            ("told data.attributes=number", "none is number", "data.attributes=null"),
            (
                "told dataset.attribute_mirrors={hat:same}",
                "names hat, which",
                "glasses, beard",
            ),
        )
    ),
    (
        "train attributes",
        "dataset.path=told",
        "what becomes of glasses, beard in a mirror",
        "data.flip=false",
    ),
    *(
        ("train set", f"{LMDB}{words} {RANGES}{test}}}", *said)
        for words, test, *said in (
            ("keyless", "[3,4]", "no key 'length'", "{size}-{index:05d}"),
            ("short", "[3,5]", "no key 16-00004", "16-00000"),
            ("hole", "[3,4]", "no key 16-00001", "missing in the middle"),
            ("cut_file", "[3,4]", "it was cut", "fetch or copy it again"),
            ("no_webp", "[3,4]", "[16-00000] is no whole picture", "replace it"),
            ("whole_file", "[2,4]", "overlap", "No picture may be in two"),
            ("whole_file", "[3,9]", "4 pictures of lmdb", "[3, 9]"),
            (f"{WHOLE}window={{top:9,left:9,side:16}}", "[3,4]", "16×16", "25×25"),
            (f"{WHOLE}attribute_files=[no.txt]", "[3,4]", "No file", "attribute_files=null"),
            (f"{WHOLE}attribute_files=[narrow.txt]", "[3,4]", "2 values, its header 1"),
            (f"{WHOLE}attribute_files=[list.txt]", "[3,4]", "none for 000003.jpg", "by name"),
        )
    ),
    *(
        ("train set", f"{LFW}{words}", *said)
        for words, *said in (
            ("answerless", "lfw_attributes.txt", "to be put there"),
            ("peopleless", "peopleDevTrain.txt with the people", "vis-www.cs.umass.edu"),
            ("absent", "no picture 1 of Cy_Dee", "lfw-funneled.tgz"),
        )
    ),
    *(
        ("train set", f"{PASCAL}{words}", *said)
        for words, *said in (
            ("plain", "No JPEGImages of pascal_part in plain", "dataset.path="),
            ("partless", "No Annotations_Part", "in partless", "VOC2010"),
            ("listless", "no listless/ImageSets/Main/horse_train.txt", "unpack"),
            ("horses dataset.object=hrose", "is no object", "Did you mean horse?", "null"),
            ("pictureless", "names 2008_000008", "2008_000008.jpg is not there", "unpack"),
            ("nameless", "2008_000008.mat", "one struct anno", "variables other", "Unpack"),
            ("narrowed", "2008_000008.mat is 12×8", "is 24×16", "of one shape", "Unpack"),
            ("winged", "a part of horse, got lwing", "Unpack"),
            ("hdf5", "2008_000008.mat", "MATLAB 7.3 (HDF5)", "-v7"),
            ("cut_mat", "2008_000008.mat is no MATLAB 5", "are left", "fetch it again"),
        )
    ),
]


def write_sets() -> None:
    """Each of them in the current folder, beside `plain`, a folder of pictures."""
    for name, table in TABLES.items():
        shutil.copytree("plain", name)
        for split in ("train", "test"):
            Path(name, split, "attributes.csv").write_text(table)
    pixels = np.random.default_rng(0).integers(0, 255, (COUNT, 16, 16, 3), dtype=np.uint8)
    pictures = {f"16-{i:05d}": webp(each) for i, each in enumerate(pixels)}
    whole = pictures | {"length": b"4"}
    write_lmdb("keyless", pictures)
    write_lmdb("short", whole | {"length": b"5"})
    write_lmdb("hole", {key: value for key, value in whole.items() if key != "16-00001"})
    write_lmdb("no_webp", whole | {"16-00000": b"RIFF and no more"})
    for name in ("cut_file", "whole_file"):
        write_lmdb(name, whole)
    data = Path("cut_file/data.mdb")
    data.write_bytes(data.read_bytes()[:-4096])
    Path("whole_file/narrow.txt").write_text(LIST.replace("Bald ", ""))
    Path("whole_file/list.txt").write_text(LIST.replace("000003", "000009"))
    for name in ("answerless", "peopleless", "absent"):
        write_lfw(Path(name), pixels)
    os.remove("answerless/lfw_attributes.txt")
    os.remove("peopleless/peopleDevTrain.txt")
    os.remove("absent/lfw_funneled/Cy_Dee/Cy_Dee_0001.jpg")
    write_pascal()


def write_pascal() -> None:
    """Folders of three horses to train on, each but `horses` wrong in its own way."""
    first = "2008_000008"
    for name in (
        *("horses", "partless", "listless", "pictureless", "nameless", "narrowed", "winged"),
        *("hdf5", "cut_mat"),
    ):
        pascal(Path(name))
    shutil.rmtree("partless/Annotations_Part")
    os.remove("listless/ImageSets/Main/horse_train.txt")
    os.remove(f"pictureless/JPEGImages/{first}.jpg")
    annotate(Path("nameless"), first, other=np.zeros(3))
    annotate(Path("narrowed"), first, thing("horse", rows(0, 2, (8, 12))))
    annotate(Path("winged"), first, thing("horse", rows(0, 9), lwing=rows(0, 2)))
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM"
    Path(f"hdf5/Annotations_Part/{first}.mat").write_bytes(head.ljust(600, b"\0"))
    annotation = Path(f"cut_mat/Annotations_Part/{first}.mat")
    annotation.write_bytes(annotation.read_bytes()[:-9])


def webp(pixels: np.ndarray) -> bytes:
    """As Diff-AE's preparation encodes a picture."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=100)
    return file.getvalue()


def write_lmdb(folder: str, keys: dict[str, bytes]) -> None:
    """A folder of data.mdb; no lock is left beside it."""
    environment = lmdb.open(folder, map_size=1 << 20, lock=False)
    with environment, environment.begin(write=True) as transaction:
        for key, value in keys.items():
            transaction.put(key.encode(), value)


def write_lfw(folder: Path, pixels: np.ndarray) -> None:
    """Two people of a picture each, for train and test alike."""
    for person, each in zip(("Ann_Bo", "Cy_Dee"), pixels, strict=False):
        place = folder / "lfw_funneled" / person
        place.mkdir(parents=True)
        Image.fromarray(each).save(place / f"{person}_0001.jpg")
    for name in ("peopleDevTrain.txt", "peopleDevTest.txt"):
        (folder / name).write_text(PEOPLE)
    (folder / "lfw_attributes.txt").write_text(ANSWERS)
