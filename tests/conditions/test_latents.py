"""Latents off and on: what changes, what stays, which noise, and what is refused."""

import json
from functools import partial

import pytest
import torch

from diffdict.backbones.pixels import Pixels
from diffdict.conditions.latents import LatentVectors
from diffdict.conditions.sources.condition_sheet import condition_sheet
from diffdict.conditions.sources.rows_file import read_rows, write_rows
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.representations.codes import PooledCodes
from diffdict.representations.pooled import Pooled
from tests.tiny_dictionary import LATENTS, pixel_dictionary

FACES = partial(ToyFaces, image_size=16, train_pictures=120, val_pictures=2, test_pictures=3)


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory):
    """An export, and what a test found of it beside."""
    path = tmp_path_factory.mktemp("dictionary") / "out"
    pixel_dictionary(path)
    classes = [
        {"class": "hair", "excess": "3 7", "dictionary": None},
        {"class": "hat", "excess": "3 1", "dictionary": None},
        {"class": "wall", "excess": "5", "dictionary": None},
        {"class": "hand", "excess": "", "dictionary": None},
    ]
    tables = {"classes": classes, "latents": [{"latent": i} for i in range(LATENTS)]}
    (path / "results.json").write_text(json.dumps({"format": 1, "tables": tables}))
    return str(path)


@pytest.fixture(scope="module")
def codes(dictionary):
    return PooledCodes(dictionary)


@pytest.fixture(scope="module")
def faces(codes):
    """The codes of all training faces."""
    pictures = FACES(split="train")
    return codes.vectors(torch.stack([pictures[i]["image"] for i in range(120)]))


def made(codes, **asked):
    condition = LatentVectors(FACES, **{"each": 2, "random": 3, "side": 16, **asked})
    rows = condition.rows(codes, codes.dim, condition.number, torch.device("cpu"))
    assert len(rows.vectors) == len(rows.latent) == len(rows.captions) == condition.number
    return condition, rows


def varied(faces, number):
    """The latents of the largest deviations whose quantiles differ."""
    spread = faces.std(0, correction=0)
    return spread.argsort(descending=True, stable=True)[:number].tolist()


def test_one_latent_changes_and_the_noise_stays(codes, faces):
    wanted = varied(faces, 2)
    condition, rows = made(codes, latents=wanted, strengths=[0, 0.5, 1])
    assert rows.latent == [*[wanted[0]] * 6, *[wanted[1]] * 6, *[-1] * 18]
    assert rows.strength == [0.0, 0.5, 1.0] * 10
    assert rows.start == rows.steps == [0, 0, 0, 1, 1, 1] * 5
    assert rows.line == [line for line in range(5) for _ in range(6)]
    assert rows.captions[:3] == [f"{wanted[0]} off", f"{wanted[0]} ×0.5", f"{wanted[0]} on"]
    off, half, on = rows.vectors[:3]
    own = wanted[0]
    assert float(off[own]) == pytest.approx(float(faces[:, own].quantile(0.01)))
    assert float(on[own]) == pytest.approx(float(faces[:, own].quantile(0.99)))
    assert float(half[own]) == pytest.approx(float(off[own] + on[own]) / 2)
    others = [i for i in range(codes.dim) if i != own]
    for vector in (off, half, on):
        torch.testing.assert_close(vector[others], faces.mean(0)[others])
    found = condition.tables()["latents"]
    assert [row["latent"] for row in found] == [*wanted, None, None, None]
    assert found[0]["on"] == pytest.approx(float(on[own]))


def test_random_directions_are_as_long(codes, faces):
    wanted = varied(faces, 2)
    condition, rows = made(codes, latents=wanted)
    lengths = [row["length"] for row in condition.tables()["latents"]]
    deviation = faces.std(0, correction=0)
    for line, length in enumerate(lengths):
        off, on = rows.vectors[4 * line], rows.vectors[4 * line + 1]
        apart = ((on - off) / deviation)[deviation > 0].norm()
        assert float(apart) == pytest.approx(length, rel=1e-3)
    assert lengths[2] == pytest.approx(sum(lengths[:2]) / 2)
    torch.testing.assert_close(rows.vectors[8], faces.mean(0))
    assert not torch.equal(rows.vectors[9], rows.vectors[13])
    assert torch.equal(made(codes, latents=wanted, random=1)[1].vectors, rows.vectors[:12])


def test_company_is_the_mean_of_where_it_is_on(codes, faces):
    own = varied(faces, 1)[0]
    off, on = made(codes, latents=[own], company=True)[1].vectors[:2]
    middle = (faces[:, own].quantile(0.01) + faces[:, own].quantile(0.99)) / 2
    is_on = faces[:, own] > middle
    others = [i for i in range(codes.dim) if i != own]
    torch.testing.assert_close(on[others], faces[is_on].mean(0)[others])
    torch.testing.assert_close(off[others], faces[~is_on].mean(0)[others])


def test_a_pictures_own_vector_is_the_base(codes, faces, tmp_path):
    own = varied(faces, 1)[0]
    _, rows = made(codes, latents=[own], base="picture", picture=1)
    vector = codes.vectors(FACES(split="test")[1]["image"][None])[0]
    others = [i for i in range(codes.dim) if i != own]
    torch.testing.assert_close(rows.vectors[0][others], vector[others])
    assert rows.pictures.shape == (1, 3, 16, 16)
    write_rows(tmp_path, rows)
    again = read_rows(tmp_path)
    assert (again.latent, again.strength, again.line) == (rows.latent, rows.strength, rows.line)
    samples = torch.zeros(16, 3, 16, 16)
    sheet = condition_sheet(samples, again)
    assert sheet.width > condition_sheet(samples, again._replace(pictures=None)).width


def test_the_most_variable_ones_and_those_of_classes(codes, faces, dictionary):
    assert made(codes, number=3)[1].latent[::4][:3] == varied(faces, 3)
    condition = LatentVectors(FACES, latents="by_class", dictionary=dictionary)
    assert condition.latents == [3, 5]
    assert condition.number == (2 + 16) * 4 * 2
    more = LatentVectors(FACES, latents="by_class", dictionary=dictionary, most=2)
    assert more.latents == [3, 7, 1, 5]
    own = varied(faces, 1)
    named, _ = made(codes, latents=own, dictionary=dictionary)
    expected = {3: "hair", 5: "wall"}.get(own[0])
    assert named.tables()["latents"][0]["class"] == expected


def test_a_representation_of_the_latents_of_classes(dictionary):
    net = PooledCodes(dictionary, "by_class")
    assert net.latents == [3, 5]
    assert net.sha256 == PooledCodes(dictionary, [3, 5]).sha256


def test_few_pictures_are_said(codes, faces):
    with pytest.warns(UserWarning, match="quantiles over 20 pictures"):
        made(codes, latents=varied(faces, 1), seen_pictures=20)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"latents": []}, "numbers of latents"),
        ({"latents": [2, 2]}, "each once"),
        ({"latents": "all"}, "got all"),
        ({"latents": "by_class"}, "what a dictionary's test found"),
        ({"base": "zero"}, "mean or picture, got 'zero'"),
        ({"base": "picture"}, "condition.picture names a picture"),
        ({"base": "picture", "picture": 0, "company": True}, "condition.base=mean"),
        ({"strengths": [0, 2]}, "0 (off) and 1 (on)"),
        ({"number": 0}, "condition.number=1"),
        ({"random": -1}, "condition.random=0"),
        ({"each": 0}, "condition.each=1"),
    ],
)
def test_what_cannot_be_switched(asked, said):
    with pytest.raises(UserError) as caught:
        LatentVectors(FACES, **asked)
    assert said in str(caught.value)


def test_what_the_dictionary_does_not_have(codes, dictionary, faces, tmp_path):
    with pytest.raises(UserError, match=r"latent 12 is none of those that codes has, 0 to 11"):
        made(codes, latents=[12])
    with pytest.raises(UserError, match=r"latent 2 is none of those that codes_3_5 has, 3, 5"):
        made(PooledCodes(dictionary, [3, 5]), latents=[2])
    silent = PooledCodes(dictionary)
    silent.sae.b_enc[4] = -1e9
    with pytest.raises(UserError, match=r"latent 4 has no spread, it is active in 0 of 120"):
        made(silent, latents=[4])
    with pytest.raises(UserError, match=r"condition.number=13 latents are asked for, \d+ vary"):
        made(codes, number=13)
    with pytest.raises(UserError, match=r"pooled_pixels has none: representation=codes"):
        made(Pooled(Pixels(16), None, "pixels"))
    bare = pixel_dictionary(tmp_path / "bare")
    with pytest.raises(UserError, match=r"no test says which latents are which class"):
        LatentVectors(FACES, latents="by_class", dictionary=bare)
