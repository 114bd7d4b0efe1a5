"""The page of steered concepts: as a file within its limit, and in a real browser."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from diffdict.errors import UserError
from diffdict.reports.concepts.steered import (
    EffectFigures,
    LabelledFile,
    SteeredConcept,
    SteeredLatent,
    SteeredSeed,
    SteeringContent,
    write_steering_page,
)

EVIL = '</title></script x><script>document.title = "evil"</script><b>hair & "skin"'
AMOUNTS, WINDOWS = [-6.0, -2.0, 0.0, 2.0], ["all", "0 to 500"]


def picture(number, side=24):
    """A picture and labels that no other number has."""
    rng = np.random.default_rng(number)
    stream, labels = io.BytesIO(), io.BytesIO()
    pixels = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format="JPEG")
    drawn = Image.fromarray(pixels[..., 0] % 2, "P")
    drawn.putpalette([200, 40, 40, 40, 40, 200])
    drawn.save(labels, format="PNG")
    return LabelledFile(stream.getvalue(), labels.getvalue())


def concept(name, place, kept, seeds=3):
    effects = [
        EffectFigures("latents", -2.0, kept, 0.05, 0.4, 0.1, 0.09, f"{EVIL} 0.4", 0.2),
        EffectFigures("direction", None, 0.7, 0.05, 0.9, 0.05, 0.06, ""),
        EffectFigures("others", -2.0, 0.9, float("nan"), 1.0, 0.02, 0.03, None),
    ]
    strips = [
        SteeredSeed(
            f"picture {i} {EVIL}",
            picture(1000 * place + 100 * i),
            [[picture(1000 * place + 100 * i + 10 * w + a + 1) for a in range(4)] for w in (0, 1)],
        )
        for i in range(seeds)
    ]
    latents = [
        SteeredLatent(
            number,
            0.01 * number,
            0.9 - number / 20,
            0.01,
            [strips[i].on[0][1] for i in range(seeds)],
        )
        for number in (3 + place, 9 + place)
    ]
    return SteeredConcept(name, (200, 40, 40), effects, strips, latents)


def content(**changed):
    concepts = [concept("nose", 0, 0.5), concept(EVIL, 1, 0.1), concept("hat", 2, None, 0)]
    facts = {"backbone": EVIL, "latents": 768}
    made = SteeringContent(f"Off and on {EVIL}", "abc", facts, AMOUNTS, WINDOWS, -2.0, concepts)
    return made._replace(**changed)


def figures(path):
    """The figures as the page's script reads them."""
    return json.loads(re.search(r'id="data-figures">(.*?)</script>', path.read_text())[1])


@pytest.fixture
def steered(tmp_path):
    return write_steering_page(content(), tmp_path / "page.html", {4: "left corner"}).path


def test_every_picture_is_there_once_and_nothing_is_fetched(steered):
    said, text = figures(steered), steered.read_text()
    # off, 2 windows × 4 amounts, of 2 concepts with 3 seeds: the latents' own are among them
    assert len(said["pictures"]) == 2 * 2 * 3 * (1 + 2 * 4)
    stored = re.search(r'id="data-pictures">(.*?)</script>', text)[1]
    assert len(stored) == sum(length for _, length in said["pictures"])
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)[1].split("; ")
    assert policy[:2] == ["default-src 'none'", "img-src data:"]
    assert not re.search(r"(src|href)=.?https?:|@import|url\(", text)
    assert said["concepts"][0]["effects"][2]["error"] is None
    assert said["names"] == {"4": "left corner"}


def test_a_page_keeps_its_limit(tmp_path):
    whole = write_steering_page(content(), tmp_path / "whole.html")
    assert (whole.seeds, whole.bare) == (3, False)
    fewer = write_steering_page(content(), tmp_path / "fewer.html", limit=whole.bytes - 1)
    assert (fewer.seeds, fewer.bare) == (2, False)
    assert fewer.bytes == fewer.path.stat().st_size < whole.bytes
    with pytest.raises(UserError, match=r"even with one seed a concept.*megabytes="):
        write_steering_page(content(), tmp_path / "none.html", limit=20_000)
    assert not (tmp_path / "none.html").exists()


@pytest.mark.browser
def test_concepts_are_searched_sorted_and_opened(tab, steered):
    tab.open(steered)
    rows = [row.split("\t")[0].strip() for row in tab.texts("#concepts tbody tr")]
    assert rows == [EVIL, "nose", "hat"], "the strongest first, none last"
    assert tab.text("h2") == EVIL
    assert tab.do("document.scripts.length") == 1, "what came from data stayed text"
    assert tab.texts("#effects tbody tr")[2].split("\t")[2].strip() == "0.90"
    tab.click("#concepts th:first-child button")
    names = [row.split("\t")[0].strip() for row in tab.texts("#concepts tbody tr")]
    assert names == sorted(names)
    tab.click("#search")
    tab.type("corner")
    assert len(tab.texts("#concepts tbody tr")) == 1, "a latent's name"
    tab.do("location.hash = '#concept-0'")
    tab.wait("document.querySelector('h2').innerText === 'nose'")
    tab.do("location.hash = '#concept-9'")
    tab.wait("document.getElementById('said').innerText === 'This page has no concept 9.'")


def slide(tab, name, value, kind="input"):
    tab.do(
        f"(() => {{ const each = document.getElementById({name!r}); each.value = {value!r};"
        f"each.dispatchEvent(new Event({kind!r})); }})()"
    )


@pytest.mark.browser
def test_sliders_and_menu_choose_what_is_shown(tab, steered):
    tab.open(steered, "#concept-0")
    source = "document.querySelector('#strip figure .on').src"
    assert tab.text("#amount-said") == "−2", "begins where it was measured"
    first = tab.do(source)
    slide(tab, "amount", "0")
    assert (tab.text("#amount-said"), tab.do(source) == first) == ("−6", False)
    slide(tab, "amount", "1")
    assert tab.do(source) == first
    slide(tab, "window", "1")
    assert (tab.text("#window-said"), tab.do(source) == first) == ("0 to 500", False)
    tab.wait("Array.from(document.images).every((each) => each.naturalWidth > 0)")
    slide(tab, "show", "labels", "change")
    assert tab.do("document.querySelector('#strip .off').src.startsWith('data:image/png')")
    slide(tab, "show", "flicker", "change")
    tab.wait("getComputedStyle(document.querySelector('#strip .on')).visibility === 'visible'")
    tab.wait("getComputedStyle(document.querySelector('#strip .on')).visibility === 'hidden'")
    slide(tab, "show", "difference", "change")
    blend = "getComputedStyle(document.querySelector('#strip .on')).mixBlendMode"
    assert tab.do(blend) == "difference"


@pytest.mark.browser
def test_latents_stand_below_and_take_names(tab, steered, tmp_path):
    tab.open(steered, "#concept-1")
    assert tab.texts("#latents b") == ["Latent 10", "Latent 4"], "the strongest first"
    slide(tab, "order", "number", "change")
    assert tab.texts("#latents b") == ["Latent 4", "Latent 10"]
    assert tab.do("document.querySelector('#latent-4 input').value") == "left corner"
    assert tab.do("document.querySelectorAll('#latent-4 figure').length") == 3
    other = tmp_path / "names.json"
    other.write_text(json.dumps({"dictionary": "abc", "names": {"10": "right corner"}}))
    tab.give_file("#load", other)
    tab.wait("document.querySelector('#latent-10 input').value === 'right corner'")
    tab.size(390, 844, phone=True)
    assert tab.do("document.documentElement.scrollWidth <= innerWidth")
