"""Lists of attributes in the published forms, and a user's own; rows are matched by name."""

import math

import pytest
import torch

from diffdict.data.archives.attribute_file import read_csv, read_lfw, read_list
from diffdict.errors import UserError

LIST = "3\nBald  Eyeglasses\n000001.jpg -1  1\n000002.jpg  1 -1\n000003.jpg -1 -1\n"
POSE = "2\nYaw Pitch Raw\n0.jpg 3.5 -1.25 0\n1.jpg -12 0 7\n"
LFW = (
    "lfw_attributes.txt version 1\n#\tperson\timagenum\tMale\tSmiling\n"
    "Ann Bo\t1\t1.5\t-0.5\nAnn Bo\t2\t-1\t0\nCy Dee Ef\t1\t0.25\t2\n"
)


def written(tmp_path, text, name="list.txt"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_published_list_is_found_by_name(tmp_path):
    table = read_list(written(tmp_path, LIST))
    made = table.attributes({"*": "same"})
    assert [(a.name, a.kind, a.mirrored) for a in made] == [
        ("Bald", "binary", "same"),
        ("Eyeglasses", "binary", "same"),
    ]
    assert table.of(["000003.jpg", "000001.jpg"], "set").tolist() == [[0, 0], [0, 1]]


def test_angles_are_numbers_under_names_of_their_own(tmp_path):
    table = read_list(written(tmp_path, POSE), {"Raw": "roll"})
    made = table.attributes({"*": "same", "Yaw": "negated", "roll": "negated"})
    assert [tuple(a) for a in made] == [
        ("Yaw", "number", "negated"),
        ("Pitch", "number", "same"),
        ("roll", "number", "negated"),
    ]
    assert table.of(["1.jpg"], "set").tolist() == [[-12, 0, 7]]


def test_a_list_that_was_changed_is_read_again(tmp_path):
    path = written(tmp_path, LIST)
    assert read_list(path).of(["000001.jpg"], "set").tolist() == [[0, 1]]
    written(tmp_path, LIST.replace("000001.jpg -1  1", "000001.jpg  1  1"))
    import os

    os.utime(path, ns=(1, 1))
    assert read_list(path).of(["000001.jpg"], "set").tolist() == [[1, 1]]


def test_lfw_is_found_by_person_and_number(tmp_path):
    table = read_lfw(written(tmp_path, LFW))
    assert table.names == ("Male", "Smiling")
    assert table.of([("Cy_Dee_Ef", 1), ("Ann_Bo", 2)], "lfw").tolist() == [[0.25, 2], [-1, 0]]
    assert {a.kind for a in table.attributes({"*": "same"})} == {"number"}


def test_a_users_own_says_what_is_unknown(tmp_path):
    path = written(tmp_path, "name,glasses,beard,yaw\na.png,1,-1,0.5\nb.png,,1,\n", "a.csv")
    table = read_csv(path)
    made = table.attributes({"yaw": "negated"})
    assert [tuple(a) for a in made] == [
        ("glasses", "binary", None),
        ("beard", "binary", None),
        ("yaw", "number", "negated"),
    ]
    expected = torch.tensor([[math.nan, 1, math.nan], [1, 0, 0.5]])
    torch.testing.assert_close(table.of(["b.png", "a.png"], "mine"), expected, equal_nan=True)


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (read_list, LIST.replace("Bald  ", ""), "has 2 values, its header 1 names"),
        (read_list, LIST.replace("3\n", "4\n", 1), "says 4 pictures in its first line and has 3"),
        (read_list, LIST.replace("000002", "000001"), "two rows for 000001.jpg"),
        (read_list, LIST.replace(" 1 -1", " 0 -1"), "Bald in .* is"),
        (read_list, LIST.replace(" 1 -1", " x -1"), "says 'x' of 000002.jpg"),
        (read_list, "name,a\nx.jpg,1\n", "is no list of attributes"),
        (read_csv, "name,a,b\nx.png,1\n", "row of x.png .* has 1 values, its header 2"),
        (read_csv, "name,a\nx.png,1\nx.png,0\n", "two rows for x.png"),
        (read_csv, "name\nx.png\n", "CSV with a line of names"),
        (read_csv, "name,a\nx.png,yes\n", "says 'yes' of x.png"),
        (read_lfw, "title\nperson\timagenum\nx\t1\n", "no lfw_attributes.txt"),
        (read_lfw, LFW.replace("\t2\n", "\n"), "row of Cy Dee Ef .* has 1 values"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, read, text, said):
    if "Bald in" in said:
        text = "3\nBald\na 0\nb 1\nc -1\n"
        said = "Bald in .* is -1, 0 and 1"
    with pytest.raises(UserError, match=said):
        read(written(tmp_path, text))


def test_names_and_mirrors_that_no_file_holds_are_refused(tmp_path):
    table = read_list(written(tmp_path, LIST))
    with pytest.raises(UserError, match=r"none for 000009.jpg, one of 1 pictures of faces"):
        table.of(["000001.jpg", "000009.jpg"], "faces")
    with pytest.raises(UserError, match="names Hat, which"):
        table.attributes({"Hat": "same"})
    with pytest.raises(UserError, match=r"\* becomes 'Bald': same or negated"):
        table.attributes({"*": "Bald"})
    with pytest.raises(UserError, match="no attribute Raw to rename"):
        read_list(table.path, {"Raw": "roll"})
    twice = read_csv(written(tmp_path, "name,a,a\nx.png,1,0\n", "a.csv"))
    with pytest.raises(UserError, match="need names that differ"):
        twice.attributes({})
