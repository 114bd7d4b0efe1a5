"""The page of concepts in a real browser: what a person sees there and does."""

import re
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from diffdict.reports.concepts.page import read_names, write_page
from tests.processes import PATIENCE

pytestmark = pytest.mark.browser
PIXELS = (  # of a canvas, by way of a copy: reading one often makes the browser complain
    "(each) => { const copy = new OffscreenCanvas(each.width, each.height);"
    "const context = copy.getContext('2d', { willReadFrequently: true });"
    "context.drawImage(each, 0, 0);"
    "return context.getImageData(0, 0, each.width, each.height); }"
)
SAID = "document.getElementById('said').innerText"


def drawn(tab, selector="#pictures canvas.heat"):
    """How many canvases hold anything."""
    return tab.do(
        f"Array.from(document.querySelectorAll({selector!r})).filter("
        f"(each) => each.width > 1 && ({PIXELS})(each).data.some(Boolean)).length"
    )


def listed(tab):
    """The numbers in the list from its top on, as far as they are in the document."""
    return [int(re.match(r"\d+", text)[0]) for text in tab.texts("#rows a .who")]


def pick(tab, selector, value):
    tab.do(
        f"(() => {{ const each = document.querySelector({selector!r}); each.value = {value!r};"
        "each.dispatchEvent(new Event('input')); each.dispatchEvent(new Event('change')); })()"
    )


def wait_for(path):
    """Until a download is whole."""
    end = time.monotonic() + PATIENCE
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.1)


def test_the_first_view_says_what_the_dictionary_is(tab, page, sample):
    tab.open(page)
    assert tab.text("h1") == f"Concepts of {sample.EVIL}" == tab.do("document.title")
    assert tab.texts("#facts dd") == [sample.EVIL, "50", "2,560", "0.1235", "–"]
    rows = tab.texts("#class-table tbody tr")
    rows = [[each.strip() for each in row.split("\t")] for row in rows]
    assert rows[0][2] == "", "a strip of pictures"
    assert rows[0][:2] + rows[0][3:] == [
        "nose",
        "5",
        "0.50",
        "0.60",
        "0.80",
        "0.70",
        "0.25",
        "0.13",
    ]
    assert (rows[1][0], rows[1][1], rows[1][3]) == (sample.EVIL, "12", "0.30")
    assert "absent from test" in rows[2][0]
    assert rows[3][3] == "0.40"
    assert "1 of 3 classes are absent" in tab.text("#notes")
    assert tab.do("document.scripts.length") == 1, "what came from data stayed text"
    assert tab.do("document.querySelectorAll('#class-table b:not(.given), #facts b').length") == 0


def test_a_class_leads_to_its_latent_and_its_pictures(tab, page, sample):
    tab.open(page)
    tab.click("#class-table tbody tr:nth-child(2) td:nth-child(4)")
    tab.wait("document.querySelectorAll('#pictures figure').length === 4")
    assert tab.text("h2") == "Latent 12"
    assert tab.do("location.hash") == "#latent-12"
    assert sample.EVIL in tab.text("#latent")
    tab.wait("Array.from(document.images).every((each) => each.naturalWidth > 0)")
    assert tab.do("document.querySelectorAll('#pictures img').length") == drawn(tab) == 4
    assert tab.do("document.querySelectorAll('.histogram rect').length") == sample.BINS
    captions = tab.texts("#pictures figcaption")
    assert captions[0] == f"test/2 {sample.EVIL}\nmax 3.00"
    tab.do("history.back()")
    tab.wait("document.body.dataset.view === 'classes'")


def test_classes_and_strong_latents_show_where_they_are_active(tab, page):
    tab.size(1600, 1600)
    tab.open(page)
    strip = "#class-table tr:nth-child(2) .strip"
    tab.wait(f"document.querySelectorAll('{strip} canvas.heat').length === 4")
    tab.wait("Array.from(document.images).every((each) => each.naturalWidth > 0)")
    assert drawn(tab, f"{strip} canvas.heat") == 4
    cards = tab.texts("#gallery a")
    assert len(cards) == 59, "all but the silent one"
    assert cards[0].startswith("59"), "the largest mean"
    tab.wait("document.querySelectorAll('#gallery canvas.heat').length > 4")
    tab.click("#gallery a:nth-child(2)")
    tab.wait("document.querySelector('h2')?.innerText !== ''")
    assert tab.do("location.hash") == "#latent-58"


def test_heat_is_the_native_map_enlarged_bilinearly(tab, page, sample):
    tab.open(page, "#latent-12")
    tab.wait("document.querySelectorAll('canvas.heat').length === 4")
    tab.wait("document.querySelectorAll('canvas.heat')[1].width > 1")
    opacity, height, width = tab.do(
        f"(() => {{ const seen = ({PIXELS})(document.querySelectorAll('canvas.heat')[1]);"
        "const opacity = Array.from(seen.data).filter((_, i) => i % 4 === 3);"
        "return [opacity, seen.height, seen.width]; })()"
    )
    top = sample.latent(12).top[1]
    levels = F.interpolate(
        torch.tensor(top.map)[None, None].float(), (height, width), mode="bilinear"
    )
    levels = (levels[0, 0].numpy() * 0.9).round()  # of the strongest picture's maximum
    expected = 255 * np.minimum(1, (levels / 255) ** 0.6 * 1.1)
    assert (height, width) == (6 * 32, 8 * 32)
    np.testing.assert_allclose(np.reshape(opacity, (height, width)), expected, atol=3)


def test_search_filter_and_sort(tab, page, sample):
    tab.open(page)
    by_iou = sorted(
        range(60), key=lambda n: (n == 7, -(0 if n == 7 else sample.latent(n).iou_test), n)
    )
    seen = listed(tab)
    assert len(seen) >= 20
    assert seen == by_iou[: len(seen)]
    tab.click("#columns [data-key=density]")
    assert listed(tab)[:3] == [59, 58, 57]
    tab.click("#columns [data-key=density]")
    assert listed(tab)[:3] == [7, 0, 1]
    tab.click("#columns [data-key=mean]")
    tab.click("#columns [data-key=mean]")
    assert listed(tab)[:2] == [0, 1], "what has no mean comes last"
    tab.click("#search")
    tab.type("nose")
    assert listed(tab) == list(range(0, 60, 3))[: len(listed(tab))]
    assert tab.text("#found") == "20 of 60"
    tab.do("document.querySelector('#search').select()")
    tab.type("42")
    assert listed(tab) == [42]
    tab.do("document.querySelector('#search').select()")
    tab.type("nothing")
    assert "No latent" in tab.text("#rows")
    pick(tab, "#search", "")
    pick(tab, "#filter", "silent")
    assert listed(tab) == [7]
    pick(tab, "#filter", "best")
    assert sorted(listed(tab)) == [5, 9, 12]
    pick(tab, "#filter", "2")
    assert {number % 3 for number in listed(tab)} == {2}


def test_a_link_opens_its_latent(tab, page):
    tab.open(page, "#latent-41")
    tab.wait("document.querySelectorAll('#pictures figure').length === 4")
    assert tab.text("h2") == "Latent 41"
    assert tab.text("#rows a[aria-selected=true] .who") == "41"
    tab.open(page, "#latent-7")
    tab.wait("document.querySelector('#latent').innerText.includes('active in no token')")
    assert "no pictures" in tab.text("#pictures")
    tab.open(page, "#latent-999")
    assert tab.do(SAID) == "This page has no latent 999."


def test_a_keyboard_is_enough(tab, page):
    tab.open(page)
    tab.press("/")
    tab.wait("document.activeElement.id === 'search'")
    tab.type("nose")
    tab.do("document.getElementById('rows').focus()")
    first = listed(tab)
    tab.press("ArrowDown")
    tab.wait(f"document.querySelector('h2')?.innerText === 'Latent {first[1]}'")
    assert tab.do("document.activeElement.id") == "rows"
    assert (
        tab.do("document.activeElement.getAttribute('aria-activedescendant')") == f"row-{first[1]}"
    )
    tab.press("End")
    tab.wait("document.querySelector('h2')?.innerText !== 'Latent " + f"{first[1]}'")
    tab.press("Home")
    tab.wait(f"document.querySelector('h2')?.innerText === 'Latent {first[0]}'")
    tab.size(375, 812, phone=True)
    tab.do("location.hash = '#latents'")
    tab.wait("document.body.dataset.view === 'list'")
    tab.do("document.getElementById('rows').focus()")
    tab.press("ArrowDown")
    assert tab.do("document.body.dataset.view") == "list", (
        "one view at a time: moving opens nothing"
    )
    tab.press("Enter")
    tab.wait("document.body.dataset.view === 'latent'")
    assert tab.text("h2") == f"Latent {first[1]}"


def test_names_survive_a_reload_an_export_and_the_generator(tab, page, tmp_path, sample):
    tab.open(page, "#latent-12")
    tab.click("#name")
    tab.type(sample.EVIL[:60])
    tab.press("Enter")
    assert sample.EVIL[:60] in tab.text("#row-12 .who")
    assert tab.text("#named") == "1 named"
    tab.open(page)
    assert tab.texts("#class-table table b.given") == ["", sample.EVIL[:60], ""]
    pick(tab, "#filter", "named")
    assert listed(tab) == [12]
    tab.click("#export")
    exported = tmp_path / "downloads" / "names.json"
    wait_for(exported)
    names = read_names(exported, "abc")["abc"]
    assert names == {12: sample.EVIL[:60]}
    again = write_page(
        sample.concepts(), tmp_path / "again.html", {**names, 5: "tip of the nose"}
    ).path
    tab.open(again)
    assert tab.texts("#class-table table b.given") == ["tip of the nose", sample.EVIL[:60], ""]
    other = write_page(sample.concepts(key="another"), tmp_path / "other.html").path
    tab.open(other)
    assert tab.texts("#class-table table b.given") == ["", "", ""], "names belong to one dictionary"


def test_names_are_loaded_from_a_file_and_taken_away(tab, page, tmp_path):
    path = tmp_path / "mine.json"
    tab.open(page)
    for text, said in [
        ("{", "mine.json is not JSON."),
        ("[]", "mine.json holds no names."),
        ('{"names": {"__proto__": "x"}}', "mine.json holds no names."),
        ('{"dictionary": "x", "names": {}}', "another dictionary, x."),
        ('{"dictionary": "abc", "names": {"5": "eye", "8": "ear"}}', "2 names loaded."),
    ]:
        path.write_text(text)
        tab.give_file("#load", path)
        tab.wait(f"{SAID}.includes({said!r})")
    assert tab.texts("#class-table table b.given")[0] == "eye"
    tab.open(page, "#latent-5")
    assert tab.do("document.getElementById('name').value") == "eye"
    pick(tab, "#name", "")
    tab.open(page)
    assert tab.text("#named") == "1 named"


def test_strength_and_mask(tab, page):
    tab.open(page, "#latent-13")
    tab.wait("document.querySelectorAll('#pictures figure').length === 4")
    tab.wait("document.querySelectorAll('canvas.heat')[3].width > 1")
    pick(tab, "#strength", "30")
    assert tab.do("getComputedStyle(document.querySelector('.heat')).opacity") == "0.3"
    assert drawn(tab, "canvas.mask") == 0
    pick(tab, "#mask", "all")
    tab.wait("document.querySelectorAll('canvas.mask')[3].width > 1")
    canvas = f"({PIXELS})(document.querySelector('canvas.mask'))"

    def at(y):  # of 24 rows, each enlarged to 8 pixels
        return f"Array.from({canvas}.data).slice(4 * (256 * {y} + 99), 4 * (256 * {y} + 99) + 4)"

    tab.wait(f"{at(9)}[3] === 150")
    assert tab.do(at(9)) == pytest.approx([40, 40, 200, 150], abs=2)
    assert tab.do(at(120)) == pytest.approx([200, 40, 40, 150], abs=2)
    assert tab.do(at(188))[3] == 0, "ignored"
    pick(tab, "#mask", "class")
    tab.wait(f"{at(9)}[3] === 0")
    assert tab.do(at(95)) == [255, 255, 255, 255]
    assert tab.do(at(96)) == [0, 0, 0, 170]
    assert tab.do(at(0))[3] == 0, "the picture's edge is no outline"
    pick(tab, "#mask", "none")
    assert tab.do("document.querySelector('canvas.mask').hidden")


def test_pictures_are_drawn_when_they_come_into_sight(tab, tmp_path, sample):
    page = write_page(sample.concepts(20, shown=40, top=40), tmp_path / "long.html").path
    tab.size(375, 600, phone=True)
    tab.open(page, "#latent-5")
    tab.wait("document.querySelectorAll('#pictures figure').length === 40")
    tab.wait("document.querySelector('canvas.heat').width > 1")
    assert 0 < drawn(tab) < 30
    tab.do("document.querySelector('#pictures').lastChild.scrollIntoView()")
    tab.wait("Array.from(document.querySelectorAll('canvas.heat')).at(-1).width > 1")


def test_thirty_thousand_latents(tab, tmp_path, sample):
    few = [sample.latent(number) for number in range(60)]
    many = [few[number % 60]._replace(number=number, top=()) for number in range(30_720)]
    page = write_page(sample.concepts(latents=many), tmp_path / "page.html").path
    tab.open(page)
    assert tab.text("#found") == "30,720 latents"
    tab.click("#columns [data-key=number]")
    tab.do("document.getElementById('rows').focus()")
    tab.press("End")
    tab.wait("document.querySelector('h2')?.innerText === 'Latent 30719'")
    assert listed(tab)[-1] == 30_719
    assert len(listed(tab)) < 60
    tab.open(page, "#latent-20000")
    assert tab.text("#rows a[aria-selected=true] .who") == "20000"


@pytest.mark.parametrize("place", ["#classes", "#latents", "#latent-12", "#latent-999"])
def test_a_phone_is_wide_enough(tab, page, tmp_path, place):
    tab.size(375, 812, phone=True)
    tab.open(page, place)
    tab.do("new Promise((done) => setTimeout(done, 200))")
    assert tab.do("document.documentElement.scrollWidth") == 375 == tab.do("innerWidth")
    seen = Image.open(tab.screenshot(tmp_path / "phone.png"))
    assert seen.size == (750, 1624)
    assert len(seen.convert("RGB").getcolors(2**24)) > 50
    small = "Array.from(document.querySelectorAll('body *')).filter((each) => each.innerText && "
    assert tab.do(small + "parseFloat(getComputedStyle(each).fontSize) < 11).length") == 0


def test_the_person_chooses_light_or_dark(tab, page):
    tab.open(page)
    light = tab.do("getComputedStyle(document.body).backgroundColor")
    tab.size(1280, 800, dark=True)
    assert (
        light == "rgb(251, 250, 247)" != tab.do("getComputedStyle(document.body).backgroundColor")
    )


def test_a_page_without_classes_latents_or_pictures(tab, tmp_path, sample):
    nothing = sample.concepts(latents=[], pictures=[], classes=[])
    tab.open(write_page(nothing, tmp_path / "page.html").path)
    assert "no masks" in tab.text("#notes")
    assert tab.text("#gallery") == ""
    assert "No latent" in tab.text("#rows")
