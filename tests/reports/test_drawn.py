"""The page of latents that were switched on, in a real browser."""

import re

import pytest

from diffdict.errors import UserError
from diffdict.reports.concepts.page import SwitchedContent, SwitchedLatent, write_page
from diffdict.reports.drawn import Drawn

SHOWN = 10  # pictures on the page


def switched(number, pairs=3):
    """Latent n rises by n / 10, but number 3 falls; every second one has no class measured."""
    measured = number % 2 == 0
    return SwitchedLatent(
        rise=-0.2 if number == 3 else number / 10,
        rise_null=0.05,
        p=0.06,
        rank=number + 1,
        area=0.012 * number if measured else None,
        area_null=0.003 if measured else None,
        pixels=0.1,
        pixels_null=0.02,
        rises=number > 4,
        pairs=[(i % SHOWN, (i + 1) % SHOWN) for i in range(pairs)],
    )


@pytest.fixture
def content(sample):
    own = [switched(number) for number in range(6)]
    random = [(0, 1), (2, 3)]
    plain = [one._replace(latent=None) for one in sample.concepts().classes]
    return sample.concepts(
        6,
        SHOWN,
        title="Latents switched on: codes",
        classes=plain,
        switched=SwitchedContent(own, 768, random),
    )


@pytest.fixture
def switched_page(content, tmp_path):
    return write_page(content, tmp_path / "drawn.html", {4: "brim of the hat"}).path


def listed(tab):
    return [int(re.match(r"\d+", text)[0]) for text in tab.texts("#rows a .who")]


@pytest.mark.browser
def test_the_largest_rise_comes_first(tab, switched_page):
    tab.size(1600, 1200)
    tab.open(switched_page)
    rows = tab.texts(".effects tbody tr")
    assert [int(row.split()[0]) for row in rows] == [5, 4, 2, 1, 0, 3]
    assert "brim of the hat" in rows[1]
    assert rows[1].split("\t")[-3:] == ["+0.40", "5", "+4.80%"]
    assert rows[5].split("\t")[-3:] == ["-0.20", "4", "–"]
    assert listed(tab) == [5, 4, 2, 1, 0, 3]
    assert "one noise" in tab.text("#notes")
    tab.wait("document.querySelectorAll('.effects .pair img').length === 36")
    tab.wait("document.querySelectorAll('figure.pairs .pair img').length === 4")
    tab.wait("Array.from(document.images).every((each) => each.naturalWidth > 0)")


@pytest.mark.browser
def test_a_latent_has_its_samples_figures_and_real_pictures(tab, switched_page, sample):
    tab.open(switched_page)
    tab.click(".effects tbody tr:nth-child(2) th a")
    tab.wait("document.querySelectorAll('#pictures figure').length === 4")
    assert tab.text("h2") == "Latent 4"
    said = dict(zip(tab.texts("#latent dt"), tab.texts("#latent dd"), strict=True))
    assert said["its code rose by"] == "+0.40 deviations"
    assert said["rank among all changes"] == "5 of 768"
    assert said["area of its class"] == "+4.80%"
    assert said["rises beyond random"] == "no"
    assert sample.EVIL in said["class"]
    tab.wait("document.querySelectorAll('#latent .pair img').length === 6")
    tab.wait("Array.from(document.images).every((each) => each.naturalWidth > 0)")
    assert tab.do("document.querySelectorAll('#latent .pair img')[1].alt") == "on"
    assert tab.do("document.querySelector('#name').value") == "brim of the hat"


@pytest.mark.browser
def test_search_and_sort_by_effect(tab, switched_page):
    tab.open(switched_page)
    tab.click("#search")
    tab.type("brim")
    assert listed(tab) == [4]
    tab.do("document.querySelector('#search').select()")
    tab.type("nose")
    assert listed(tab) == [0, 3]
    tab.do("document.querySelector('#search').value = ''")
    tab.do("document.querySelector('#search').dispatchEvent(new Event('input'))")
    tab.click("#columns [data-key=rank]")
    assert listed(tab) == [0, 1, 2, 3, 4, 5]
    tab.click("#columns [data-key=area]")
    assert listed(tab) == [4, 2, 0, 1, 3, 5], "what was not measured comes last"


@pytest.mark.browser
@pytest.mark.parametrize("place", ["#classes", "#latents", "#latent-4"])
def test_a_phone_shows_it_without_scrolling_aside(tab, switched_page, place):
    tab.size(375, 812, phone=True)
    tab.open(switched_page, place)
    tab.do("new Promise((done) => setTimeout(done, 200))")
    assert tab.do("document.documentElement.scrollWidth") == 375 == tab.do("innerWidth")


def test_what_is_no_number_is_a_dash_and_lengths_agree(content, tmp_path):
    bare = content.switched.latents[0]._replace(rise_null=None, p=float("nan"))
    rest = content.switched.latents[1:]
    own = content._replace(switched=content.switched._replace(latents=[bare, *rest]))
    text = write_page(own, tmp_path / "bare.html").path.read_text()
    assert '"riseNull":[null,0.05' in text
    assert '"p":[null,0.06' in text
    with pytest.raises(ValueError, match="of each of them, or of none"):
        write_page(
            content._replace(switched=content.switched._replace(latents=[bare])),
            tmp_path / "few.html",
        )


def test_settings_below_one_are_refused(tmp_path):
    for key in ("top", "side", "megabytes"):
        with pytest.raises(UserError, match=rf"report.drawn.{key}=1"):
            Drawn(str(tmp_path), **{key: 0})
