"""The page of concepts as a file: what is in it, how large it is, names that come back."""

import json
import re

import pytest

from diffdict.errors import UserError
from diffdict.reports.concepts.page import PagePicture, read_names, write_page


def figures(path):
    """The figures as the page's script reads them."""
    text = re.search(r'id="data-figures">(.*?)</script>', path.read_text())[1]
    return json.loads(text)


def test_figures_are_whole_and_none_is_not_a_number(page, sample):
    said = figures(page)
    assert said["latents"]["number"] == list(range(60))
    assert said["latents"]["mean"][7] is None
    assert said["facts"][3:] == [["FVU", "0.1235"], ["L0", "–"]]
    assert said["mean"]["iou_test"] == pytest.approx(0.4), "without the absent class"
    assert said["mean"]["channel"] == 0.125, "over those who have one"
    assert said["classes"][1]["name"] == sample.EVIL


def test_each_picture_is_in_the_page_once_and_nothing_is_fetched(page):
    text = page.read_text()
    assert len(figures(page)["pictures"]) == 10
    stored = re.search(r'id="data-pictures">(.*?)</script>', text)[1]
    assert len(stored) == sum(sum(lengths) for _, _, *lengths in figures(page)["pictures"])
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)[1].split("; ")
    assert policy[:2] == ["default-src 'none'", "img-src data:"]
    for rule, kind in zip(policy[2:], ("style", "script"), strict=True):
        assert re.fullmatch(rf"{kind}-src 'sha256-[\w+/=]+'", rule)
    assert not re.search(r"(src|href)=.?https?:|@import|url\(", text)


def test_a_page_keeps_its_limit(tmp_path, sample):
    given = sample.concepts(300, top=9)
    whole = write_page(given, tmp_path / "whole.html")
    assert (whole.top, whole.bare) == (9, 0)
    assert whole.bytes == whole.path.stat().st_size
    fewer = write_page(given, tmp_path / "fewer.html", limit=whole.bytes - 50_000)
    assert 3 < fewer.top < 9
    assert (fewer.bare, fewer.bytes < whole.bytes - 50_000) == (0, True)
    bare = write_page(given, tmp_path / "bare.html", {11: "kept"}, limit=whole.bytes - 160_000)
    lengths = figures(bare.path)["lengths"]
    assert bare.top == 3
    assert 0 < bare.bare < 300
    assert bare.bytes <= whole.bytes - 160_000
    assert min(lengths[number] for number in (5, 12, 9, 11)) > 3 * min(lengths), "the wanted stay"
    with pytest.raises(UserError, match=r"even without top pictures.*fewer or smaller pictures"):
        write_page(given, tmp_path / "none.html", limit=50_000)
    assert not (tmp_path / "none.html").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda given: {"latents": [*given.latents, given.latents[3]]}, "same number"),
        (lambda given: {"latents": given.latents[:5]}, "no latent 5"),
        (lambda given: {"classes": given.classes[:1]}, "no class 1"),
        (lambda given: {"edges": [0, 1]}, "5 bins"),
        (lambda given: {"pictures": given.pictures[:9]}, "not there"),
        (lambda given: {"pictures": [PagePicture("x", b"GIF89a")] * 10}, "PNG or JPEG"),
    ],
)
def test_what_would_make_a_page_lie_is_refused(tmp_path, changed, said, sample):
    given = sample.concepts()
    with pytest.raises(ValueError, match=said):
        write_page(given._replace(**changed(given)), tmp_path / "page.html")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "Cannot read names from"),
        ("{", "is not JSON"),
        ('{"5": "eye"}', "holds no names"),
        ('{"dictionary": "abc", "names": {"5": 3}}', "holds no names"),
        ('{"dictionary": "abc", "names": {"-5": "eye"}}', "holds no names"),
        ('{"dictionary": "other", "names": {"5": "eye"}}', "belong to dictionary 'other'"),
    ],
)
def test_a_file_that_holds_no_names_of_this_dictionary(tmp_path, text, said):
    path = tmp_path / "names.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_names(path, "abc")
