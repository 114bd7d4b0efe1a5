"""From a tested dictionary to its page: figures, top pictures, names, and what cannot be shown."""

import io
import json
import re
from unittest.mock import Mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from diffdict.errors import UserError
from diffdict.metrics.concepts.assignment import best_class
from diffdict.reports.concepts.album import Album, encode_picture
from diffdict.reports.concepts.compose import compose, key_of, page_facts
from diffdict.reports.dashboard import Dashboard
from tests.reports.world import CLASSES, GRID, PALETTE, PICTURES, SIDE, Tested, World, build

FIGURES = {"test/fvu": torch.tensor(0.25), "test/scale4/fvu": torch.tensor(0.5)}


def compose_page(data, sae=None, **options):
    sae = build() if sae is None else sae
    album = Album(data, **{"most": 100, "side": 96, **options})
    strongest = album.look({"sae": sae}, 3)["sae"]
    facts = page_facts(sae, strongest, album, FIGURES, "sae")
    return compose(sae, facts, strongest, Tested(data, sae=sae).findings.get("sae"), album)


def run(folder, module, data, rank=0, **options):
    """The callback, as a test run calls it."""
    trainer = Mock(spec=pl.Trainer, datamodule=data, is_global_zero=rank == 0)
    trainer.callback_metrics = FIGURES
    dashboard = Dashboard(str(folder), **options)
    dashboard.setup(trainer, module, "test")
    dashboard.on_test_start(trainer, module)
    dashboard.on_test_end(trainer, module)
    return dashboard


def said(path):
    return json.loads(re.search(r'id="data-figures">(.*?)</script>', path.read_text())[1])


@torch.no_grad()
def codes_of(sae, data):
    """[pictures, tokens, latents], all at once."""
    maps = [data.maps("test", index).images()[0][0] for index in range(PICTURES)]
    return torch.stack([sae.encode(x.flatten(1).T) for x in maps])


def test_every_top_picture_is_where_the_latent_is_strongest():
    sae, data = build(), World()
    page, codes = compose_page(data, sae), codes_of(sae, data)
    assert [latent.number for latent in page.latents] == list(range(20))
    assert any(len(latent.top) == 3 for latent in page.latents)
    for latent in page.latents:
        maxima = codes[:, :, latent.number].amax(1)
        best = [int(i) for i in maxima.argsort(descending=True, stable=True)[:3] if maxima[i] > 0]
        names = [page.pictures[top.picture].name for top in latent.top]
        assert names == [f"test/{index:05d}" for index in best]
        for top, index in zip(latent.top, best, strict=True):
            assert top.maximum == maxima[index]
            levels = (codes[index, :, latent.number] / maxima[index] * 255).round()
            assert (top.map.flatten() == levels.numpy()).all()
        values = codes[:, :, latent.number]
        assert latent.density == pytest.approx(float((values > 0).double().mean()))
        assert latent.histogram.sum() == (values > 0).sum()
        if latent.density:
            assert latent.mean == pytest.approx(float(values[values > 0].mean()))


def test_classes_and_latents_say_what_was_found():
    sae, data = build(), World()
    page, found = compose_page(data, sae), Tested(data, sae=sae).findings["sae"]
    for label, (each, row) in enumerate(zip(page.classes, found.best.rows, strict=True)):
        assert (each.name, each.latent) == (row.name, row.latent)
        assert (each.iou_train, each.iou_test) == pytest.approx(
            (float(row.train.iou), float(row.test.iou)), nan_ok=True
        )
        assert (each.iwm, each.precision) == pytest.approx(
            (float(row.test.iwm), float(row.test.precision)), nan_ok=True
        )
        random = float(found.baselines["random"].test.iou[label])
        assert each.random == pytest.approx(random, nan_ok=True)
        assert each.channel is None, "not measured"
        assert each.absent == (row.name == "sun")
    own = best_class(found.train)
    for latent in page.latents:
        label, at = int(own.classes[latent.number]), int(own.thresholds[latent.number])
        if label < 0:
            assert latent.best_class is None
            continue
        iou = found.test.figures(at).iou[label, latent.number]
        assert latent.best_class == label
        assert latent.iou_test == pytest.approx(float(iou), nan_ok=True)
        assert latent.iou_train == pytest.approx(float(own.score[latent.number]))
    assert page.classes[2].latent == 2
    assert page.classes[2].iou_test > 0.5 > page.classes[2].random


def test_facts_say_what_the_dictionary_is():
    page = compose_page(World(streams=2))
    assert page.title == "Concepts of world"
    assert page.facts == {
        "dataset": "world",
        "test pictures": PICTURES,
        "backbone": "net",
        "timestep": "50, 150",
        "block": "4",
        "dictionary": "topk",
        "k": 2,
        "latents": 20,
        "never active": page.facts["never active"],
        "FVU": 0.25,
    }
    silent = sum(latent.density == 0 for latent in page.latents)
    assert page.facts["never active"] == silent


def test_stacked_streams_are_seen_one_by_one():
    page = compose_page(World(streams=2))
    assert {picture.name for picture in page.pictures} <= {
        f"test/{index:05d} {stream}"
        for index in range(PICTURES)
        for stream in ("t0050-b04", "t0150-b04")
    }
    assert len(page.pictures) > PICTURES


def test_pictures_are_small_and_masks_unmixed():
    data = World()
    page = compose_page(data, side=12)
    for picture in page.pictures:
        shown = Image.open(io.BytesIO(picture.data))
        assert (shown.format, shown.size) == ("JPEG", (12, 12))
        index = int(picture.name[-5:])
        expected = round((index / PICTURES + 0.5) * 127.5)
        assert np.abs(np.asarray(shown).astype(int) - expected).max() <= 2
        assert (picture.mask == data.mask("test", index)[1::2, 1::2].numpy()).all()


def test_what_is_not_here_is_replaced_and_said():
    page = compose_page(World(at_hand=False))
    for picture in page.pictures:
        shown = Image.open(io.BytesIO(picture.data))
        assert shown.format == "PNG"
        colours = np.array([*PALETTE, *[(0, 0, 0)] * 252], dtype=np.uint8)
        assert (np.asarray(shown.convert("RGB")) == colours[picture.mask]).all()
    assert page.facts["pictures"] == "not here: masks stand for them"
    bare = compose_page(World(at_hand=False, labelled=False))
    assert bare.facts["pictures"] == "not here: grey stands for them"
    assert (bare.classes, bare.pictures[0].mask) == ([], None)
    assert all(latent.best_class is None for latent in bare.latents)
    assert encode_picture(None, None, [], 9)[:4] == b"\x89PNG"


def test_only_the_first_pictures_are_looked_at():
    page = compose_page(World(), most=2)
    assert {picture.name for picture in page.pictures} == {"test/00000", "test/00001"}
    assert page.facts["test pictures"] == 2


def test_a_page_for_each_dictionary_under_a_name_that_is_free(tmp_path, capsys):
    data = World()
    run(tmp_path, Tested(data, sae=build()), data)
    before = (tmp_path / "dashboard/index.html").read_bytes()
    run(tmp_path, Tested(data, scale2=build(), scale4=build(k=4)), data)
    assert (tmp_path / "dashboard/index.html").read_bytes() == before
    second = tmp_path / "dashboard-2"
    assert sorted(path.name for path in second.iterdir()) == ["scale2.html", "scale4.html"]
    assert ["FVU", "0.5"] in said(second / "scale4.html")["facts"]
    assert f"dashboard: {second}/scale4.html" in capsys.readouterr().out


def test_names_go_to_the_dictionary_that_they_were_given_to(tmp_path):
    data, one, other = World(), build(), build(k=4)
    with torch.no_grad():
        other.W_enc[7] += 1
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"dictionary": key_of(other), "names": {"7": "bow"}}))
    run(tmp_path, Tested(data, one=one, other=other), data, names=str(names))
    assert said(tmp_path / "dashboard/other.html")["names"] == {"7": "bow"}
    assert said(tmp_path / "dashboard/one.html")["names"] == {}
    with pytest.raises(UserError, match="belong to dictionary"):
        run(tmp_path, Tested(data, sae=one), data, names=str(names))
    assert not (tmp_path / "dashboard-2").exists()


def test_other_ranks_write_nothing(tmp_path):
    data = World()
    run(tmp_path, Tested(data, sae=build()), data, rank=1)
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_task_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"of a dictionary \(task=sae\).*try report=grid"):
        run(tmp_path, pl.LightningModule(), World())


@pytest.mark.parametrize("key", ["top", "pictures", "side", "megabytes"])
def test_numbers_are_positive(tmp_path, key):
    with pytest.raises(UserError, match=rf"report\.dashboard\.{key} must be at least 1, got 0"):
        Dashboard(str(tmp_path), **{key: 0})


@pytest.mark.browser
def test_a_browser_shows_it(tab, tmp_path):
    data = World()
    run(tmp_path, Tested(data, sae=build()), data)
    tab.open(tmp_path / "dashboard/index.html")
    rows = [row.split("\t") for row in tab.texts("#class-table tbody tr")]
    assert [row[0].split("\n")[0] for row in rows] == [*CLASSES, "mean"]
    tab.click("#class-table tbody tr:nth-child(3) td:nth-child(4)")
    tab.wait("document.querySelector('h2')?.innerText === 'Latent 2'")
    tab.wait("document.querySelectorAll('#pictures figure').length === 5")
    tab.wait("Array.from(document.images).every((each) => each.naturalWidth > 0)")
    assert tab.do("page.grid") == [GRID, GRID]
    assert tab.do("document.images[0].naturalWidth") == SIDE
