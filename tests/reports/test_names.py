"""From a tested dictionary to names: by a namer and a scorer, or by someone elsewhere."""

import csv
import json
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch

from diffdict.errors import UserError
from diffdict.reports.concepts.compose import key_of
from diffdict.reports.concepts.page import read_names
from diffdict.reports.names import Names
from tests.reports.latent_names.colours import ColouredWorld, ColourNamer, ColourScorer
from tests.reports.world import Tested, build

SMALL = {"latents": [0, 1, 2], "top": 4, "cases": 8, "crop": 0.2, "side": 24}


def run(folder, module, data, rank=0, **options):
    """The callback, as a test run calls it."""
    trainer = Mock(spec=pl.Trainer, datamodule=data, is_global_zero=rank == 0)
    names = Names(str(folder), **{**SMALL, **options})
    names.setup(trainer, module, "test")
    names.on_test_start(trainer, module)
    names.on_test_end(trainer, module)


def table(folder):
    with (folder / "names.csv").open() as file:
        return {int(row["latent"]): row for row in csv.DictReader(file)}


@pytest.fixture
def world():
    data, sae = ColouredWorld(labelled=False), build()
    return data, Tested(data, sae=sae), sae


def test_names_are_those_that_foretell_their_latents(tmp_path, world, capsys):
    data, module, sae = world
    run(tmp_path, module, data, namer=ColourNamer(), scorer=ColourScorer())
    rows = table(tmp_path / "names")
    assert [rows[latent]["name"] for latent in range(3)] == ["blue", "navy", "orange"]
    for row in rows.values():
        assert float(row["auc"]) > 0.9 > 0.6 > float(row["others"])
        assert float(row["p"]) < 0.7  # navy and blue may foretell alike
        assert (int(row["cases"]), int(row["crops"])) == (16, 4)
    assert float(rows[2]["p"]) == pytest.approx(1 / 3)
    assert "3 latents named; detection AUC" in capsys.readouterr().out
    names = read_names(tmp_path / "names" / "names.json", key_of(sae))
    assert names[key_of(sae)] == {0: "blue", 1: "navy", 2: "orange"}


def test_without_a_choice_the_strongest_are_named(tmp_path, world):
    data, module, _ = world
    run(tmp_path, module, data, namer=ColourNamer(), scorer=ColourScorer(), latents=None, most=2)
    assert len(table(tmp_path / "names")) == 2


def test_someone_elsewhere_names_and_judges(tmp_path, world, capsys):
    """Crops out, names in, questions out, scores in: the same figures as by the scorer."""
    data, module, sae = world
    run(tmp_path / "one", module, data)
    requests = tmp_path / "one/names/requests.json"
    assert f"report.names.answers={requests}" in capsys.readouterr().out
    content = json.loads(requests.read_text())
    assert content["dictionary"] == key_of(sae)
    for row, name in zip(content["latents"], ("blue", "navy", "orange"), strict=True):
        assert all((requests.parent / crop).is_file() for crop in row["crops"])
        row["names"] = [name]
    requests.write_text(json.dumps(content))

    run(tmp_path / "two", module, data, answers=str(requests))
    questions = tmp_path / "two/names/questions.json"
    assert table(questions.parent)[0]["auc"] == ""
    content = json.loads(questions.read_text())
    for row in content["questions"]:
        crop = opened(questions.parent / row["crop"])
        row["scores"] = (1 + ColourScorer()(crop, row["texts"])[0] / 4).tolist()
    questions.write_text(json.dumps(content))

    given = {"answers": str(requests), "scores": str(questions)}
    run(tmp_path / "three", module, data, **given)
    run(tmp_path / "four", module, data, answers=str(requests), scorer=ColourScorer())
    assert table(tmp_path / "three/names") == table(tmp_path / "four/names")
    with pytest.raises(UserError, match="other questions"):
        run(tmp_path / "five", module, data, **given, cases=6)


def opened(path):
    import numpy as np
    from PIL import Image

    pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None]
    return pixels / 127.5 - 1


def test_a_page_of_names_is_judged_too(tmp_path, world):
    data, module, sae = world
    page = tmp_path / "names.json"
    page.write_text(json.dumps({"dictionary": key_of(sae), "names": {"2": "orange", "0": "navy"}}))
    run(tmp_path, module, data, answers=str(page), scorer=ColourScorer(), latents=None)
    rows = table(tmp_path / "names")
    assert float(rows[2]["auc"]) > 0.9
    assert float(rows[0]["auc"]) < 0.5, "a wrong name foretells nothing"


def test_each_of_several_dictionaries_has_its_own(tmp_path):
    data = ColouredWorld(labelled=False)
    module = Tested(data, one=build(), other=build(k=4))
    run(tmp_path, module, data, namer=ColourNamer(), scorer=ColourScorer())
    assert table(tmp_path / "names/one")
    assert table(tmp_path / "names/other")


def test_stacked_maps_are_looked_at_together(tmp_path):
    data = ColouredWorld(labelled=False, streams=2)
    module = Tested(data, sae=build())
    run(tmp_path, module, data, namer=ColourNamer(), scorer=ColourScorer())
    assert [row["name"] for row in table(tmp_path / "names").values()] == ["blue", "navy", "orange"]


def test_other_ranks_write_nothing(tmp_path, world):
    data, module, _ = world
    run(tmp_path, module, data, rank=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top is at least 1"),
        ({"pictures": 1}, "pictures is at least 2"),
        ({"crop": 0}, "share of a picture"),
        ({"crop": 1.5}, "share of a picture"),
        ({"namer": ColourNamer(), "answers": "a.json"}, "leave one out"),
        ({"scores": "a.json"}, "answers="),
        ({"scores": "a.json", "answers": "b", "scorer": ColourScorer()}, "no report.names.scorer"),
        ({"latents": [20]}, "got 20"),
        ({"answers": "nowhere.json"}, "Cannot read"),
    ],
)
def test_what_cannot_be_is_refused_first(tmp_path, world, options, message):
    data, module, _ = world
    with pytest.raises(UserError, match=message):
        run(tmp_path, module, data, **options)
    assert not list(tmp_path.iterdir())


def test_pictures_must_be_at_hand(tmp_path):
    data = ColouredWorld(labelled=False, at_hand=False)
    with pytest.raises(UserError, match="are not here"):
        run(tmp_path, Tested(data, sae=build()), data)


def test_latents_that_are_never_active_have_no_name(tmp_path, world):
    data, module, sae = world
    with torch.no_grad():
        sae.W_enc[5] = 0
    with pytest.raises(UserError, match="nothing to name"):
        run(tmp_path, module, data, latents=[5])
