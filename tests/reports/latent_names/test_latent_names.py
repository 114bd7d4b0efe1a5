"""Crops, cases and questions: what is cut where, and what an answer must be."""

import json

import pytest
import pytorch_lightning as pl
import torch

from diffdict.errors import UserError
from diffdict.reports.latent_names.activity import PictureActivity, halves
from diffdict.reports.latent_names.crops import Crop, Cutter
from diffdict.reports.latent_names.exchange import (
    Question,
    read_answers,
    read_scores,
    write_questions,
    write_requests,
)
from diffdict.reports.latent_names.judging import Questionnaire
from diffdict.reports.latent_names.vocabulary import Vocabulary
from tests.reports.latent_names.colours import ColouredWorld, ColourScorer
from tests.reports.world import GRID, SIDE


class Ramp(pl.LightningDataModule):
    """A picture whose red is its column and whose green is its row."""

    def picture(self, split, index):
        line = torch.linspace(-1, 1, SIDE)
        return torch.stack(
            [line.expand(SIDE, -1), line[:, None].expand(-1, SIDE), line.expand(SIDE, -1)]
        )


def test_a_crop_is_around_its_place():
    cut = Cutter(Ramp(), (GRID, GRID), 0.25, 6)
    step = 2 / (SIDE - 1)
    crop = cut(Crop(0, 2 * GRID + 3, True))  # the middle of row 2, column 3: pixels 10 and 14
    assert crop.shape == (3, 6, 6)
    assert crop[0].mean() == pytest.approx(-1 + (14 - 0.5) * step, abs=1e-5)
    assert crop[1].mean() == pytest.approx(-1 + (10 - 0.5) * step, abs=1e-5)
    corner = cut(Crop(0, 0, True))
    assert (corner[0].min(), corner[1].min()) == (-1, -1), "moved into the picture"


def test_cases_are_active_and_silent_where_they_say_so():
    torch.manual_seed(0)
    codes = (torch.rand(30, GRID * GRID, 2) - 0.9).clamp(min=0)
    codes[:5, :, 0] = 0
    activity = PictureActivity([7, 9], 30, (GRID, GRID), 1)
    for picture, each in enumerate(codes):
        activity.add(picture, each)
    naming, judging = halves(30)
    assert sorted([*naming, *judging]) == list(range(30))
    cases = activity.cases(7, judging, 6)
    assert [case.active for case in cases] == [True] * (len(cases) // 2) + [False] * (
        len(cases) // 2
    )
    assert {case.picture for case in cases} <= set(judging)
    for case in cases:
        row, column = divmod(case.place, GRID)
        around = codes[case.picture, :, 0].view(GRID, GRID)
        if case.active:
            assert around[row, column] == around.max() > 0
        else:
            assert not around[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].any()
    peaks = [float(codes[case.picture, case.place, 0]) for case in cases if case.active]
    assert peaks == sorted(peaks, reverse=True)


def test_too_few_cases_are_none():
    activity = PictureActivity([0], 9, (GRID, GRID), 1)
    for picture in range(9):
        codes = torch.zeros(GRID * GRID, 1)
        codes[0] = float(picture < 3)
        activity.add(picture, codes)
    assert activity.cases(0, range(9), 8) == []


def test_questions_do_not_say_which_text_is_whose():
    names = {3: "dog", 5: "cat", 8: "cat"}
    cases = {latent: [Crop(i, 0, i < 4) for i in range(8)] for latent in (3, 5)}
    asked = Questionnaire(names, cases)
    assert [question.texts for question in asked.questions()] == [["cat", "dog"]] * 16
    assert [latent for latent, _ in asked.order] != sorted(latent for latent, _ in asked.order)
    scores = torch.tensor([[float(i), float(latent)] for latent, i in asked.order])
    said = asked.judgements(scores)
    assert said[3].scores[:, 0].tolist() == list(range(8))
    assert said[5].scores[:, 1].tolist() == [5] * 8
    assert said[3].active.tolist() == [True] * 4 + [False] * 4


def filled(path, field, values):
    content = json.loads(path.read_text())
    for row, value in zip(
        content["latents" if field == "names" else "questions"], values, strict=True
    ):
        row[field] = value
    path.write_text(json.dumps(content))


def test_names_come_back_of_those_that_have_some(tmp_path):
    path = tmp_path / "requests.json"
    write_requests(path, "key", {3: ["a.png"], 5: ["b.png"], 9: []})
    filled(path, "names", [["left eye", "eye"], "hair", []])
    assert read_answers(path, ["other", "key"]) == ("key", {3: ["left eye", "eye"], 5: ["hair"]})
    page = tmp_path / "names.json"
    page.write_text(json.dumps({"dictionary": "key", "names": {"17": "nose"}}))
    assert read_answers(page, ["key"]) == ("key", {17: ["nose"]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Cannot read"),
        ("{", "is not JSON"),
        ('{"dictionary": "else", "latents": []}', "belongs to dictionary 'else'"),
        ('{"dictionary": "key", "latents": [{"latent": 3, "names": []}]}', "is empty"),
        ('{"dictionary": "key", "latents": [{"latent": 3, "names": 4}]}', "holds no names"),
        ('{"dictionary": "key", "latents": 3}', "holds no names"),
        ('{"dictionary": "key"}', "holds no names"),
        ("[]", "belongs to dictionary None"),
    ],
)
def test_answers_that_are_none(tmp_path, content, message):
    path = tmp_path / "answers.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_answers(path, ["key"])


def test_scores_come_back_in_the_order_of_the_questions(tmp_path):
    asked = [Question("q/0.png", ["cat", "dog"]), Question("q/1.png", ["cat"])]
    path = tmp_path / "questions.json"
    write_questions(path, "key", asked)
    filled(path, "scores", [[0.25, 1], [0]])
    assert read_scores(path, ["key"], asked)[0].tolist() == [0.25, 1]
    with pytest.raises(UserError, match="other questions"):
        read_scores(path, ["key"], asked[::-1])
    for wrong, message in (
        ([[1], [0]], "2 numbers"),
        ([[1, 2], [0]], "from 0 to 1"),
        ([["yes", 1], [0]], "holds no scores"),
    ):
        filled(path, "scores", wrong)
        with pytest.raises(UserError, match=message):
            read_scores(path, ["key"], asked)


def test_a_vocabulary_gives_words_that_fit_one_latent_alone(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("blue\n\norange\nnavy\nblue\n")
    namer = Vocabulary(str(words), ColourScorer(), candidates=1)
    assert namer.words == ["blue", "orange", "navy"]
    picture = ColouredWorld().picture("test", 0)
    sky, sea = picture[None, :, :2, :2], picture[None, :, -4:-2, -2:]
    assert namer({4: sky, 6: sea}) == {4: ["blue"], 6: ["navy"]}
    assert namer({4: sky}) == {4: ["blue"]}
    assert namer({}) == {}


@pytest.mark.parametrize("content", [None, "one\n", b"\xff\xfe"])
def test_a_vocabulary_has_words(tmp_path, content):
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match="words"):
        Vocabulary(str(path), ColourScorer())
