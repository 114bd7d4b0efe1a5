"""Probe sweeps: every cell as if it had been fitted alone, and the cell that knows is found."""

from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from diffdict.backbones.base import Backbone
from diffdict.data import base
from diffdict.errors import UserError
from diffdict.features.pooled import PooledLoader
from diffdict.features.probes import ProbePictures, pixel_gram
from diffdict.metrics.accuracy import Accuracy, AveragePrecision
from diffdict.metrics.probes import ProbeSums
from diffdict.metrics.segmentation import Segmentation
from diffdict.sae.topk import TopK
from diffdict.tasks.probe_sweep import ProbeSweep

SIDE, CLASSES = 12, 4


class Pictures(base.Pictures):
    """Blocks of colour that say the class; class 3 is ignored."""

    name, image_size, num_classes, labelled = "colours", SIDE, CLASSES, True
    class_names, palette, ignore_label = ["a", "b", "c", "d"], [(0, 0, 0)] * 4, 3

    def __init__(self, split="train", count=8):
        self.split, self.count = split, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index + 1000 * (self.split == "test"))
        coarse = torch.randint(CLASSES, (1, 1, 4, 4), generator=generator).float()
        mask = F.interpolate(coarse, (SIDE, SIDE))[0, 0].long()
        image = F.one_hot(mask, CLASSES)[..., :3].permute(2, 0, 1) * 2.0 - 1
        return {"image": image + 0.3 * torch.randn(image.shape, generator=generator), "mask": mask}


class Net(Backbone):
    """Two blocks at two resolutions that see less with every timestep."""

    name, image_size, num_timesteps = "net", SIDE, 1000

    def __init__(self):
        super().__init__()
        self.shapes = {1: (3, 3, 3), 2: (6, SIDE, SIDE)}

    def features(self, images, timestep=None, blocks=None, noise=None):
        x = images * (1 - timestep / 1000) + noise * timestep / 1000
        maps = {1: F.avg_pool2d(x, 4), 2: torch.cat([x, x.square()], 1)}
        return {block: maps[block] for block in self.chosen(blocks)}


def pictures(**options):
    known = {"dataset": Pictures, "backbone": Net(), "source": "live", "dtype": "fp32"}
    asked = {"timestep": [100, 600], "block": "all", "noise": {"shared": False}}
    return ProbePictures(**{**known, **asked, **options})


def probed(data, folder, **options):
    facts = data.facts
    options = {"target": facts["target"], "class_names": facts["class_names"]} | options
    task = ProbeSweep(facts["num_classes"], facts["cells"], facts["ignore_label"], **options)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", default_root_dir=folder, **quiet)
    trainer.test(task, data, verbose=False)
    return task, {name: float(value) for name, value in trainer.callback_metrics.items()}


def alone(split, timestep, block, part, sums):
    """The pictures of a part with one map each, and what they add to the sums."""
    data = pictures(timestep=timestep, block=block)
    source, seen = data.sources.open(split, torch.device("cpu")), []
    for index in part:
        tokens, mask = source.maps([index])[0][0], source.mask(index)
        seen.append((tokens, (source.streams[0].height,) * 2, mask))
        if split == "train":
            sums.update(tokens, *pixel_gram(mask, seen[-1][1], CLASSES, 3))
    return seen


def miou(seen, readouts):
    metric = Segmentation(CLASSES, 3)
    for tokens, grid, mask in seen:
        metric.update(readouts.labels(tokens, grid, (SIDE, SIDE))[0], mask)
    return metric.compute().miou()


def test_every_cell_is_what_it_would_be_alone(tmp_path):
    task, figures = probed(pictures(), tmp_path, ridges=[1e-3, 10.0], smallest_annotation=0)
    for cell, chosen in zip(task.cells, task.chosen, strict=True):
        sums = ProbeSums(cell.channels, CLASSES)
        place = cell.timestep, cell.block
        alone("train", *place, range(6), sums)
        tried = {ridge: sums.compute().discriminants([ridge]) for ridge in (1e-3, 10.0)}
        held = alone("train", *place, range(6, 8), sums)
        scores = {ridge: miou(held, readouts) for ridge, readouts in tried.items()}
        assert chosen.figure == pytest.approx(max(scores.values()))
        assert scores[chosen.ridge] == max(scores.values())
        tested = alone("test", *place, range(8), ProbeSums(cell.channels, CLASSES))
        final = miou(tested, sums.compute().discriminants([chosen.ridge]))
        assert figures[f"test/{cell.name}/miou"] == pytest.approx(final)
        assert figures[f"val/{cell.name}/miou"] == pytest.approx(chosen.figure)


def test_the_cell_that_knows_is_found(tmp_path):
    noise = [0.1, 0.1, None, None]
    task, figures = probed(pictures(), tmp_path, protocol="standard", noise_levels=noise)
    rows = task.tables()["cells"]
    assert [row["sigma"] for row in rows] == noise
    assert [(row["timestep"], row["block"]) for row in rows] == [
        (100, 1),
        (100, 2),
        (600, 1),
        (600, 2),
    ]
    assert max(rows, key=lambda row: row["miou"]) == rows[1]
    assert rows[1]["miou"] > 0.9 > rows[3]["miou"] > rows[2]["miou"]
    assert set(figures) == {
        f"{split}/t0{step}-b0{block}/miou"
        for split in ("val", "test")
        for step in (100, 600)
        for block in (1, 2)
    }


def test_it_may_be_asked_twice(tmp_path):
    data = pictures()
    task, first = probed(data, tmp_path)
    trainer = pl.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    trainer.test(task, data, verbose=False)
    assert first == {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ridges": []}, r"model\.ridges are positive numbers, got \[\]"),
        ({"ridges": [0.0]}, r"model\.ridges are positive numbers"),
        ({"protocol": "other"}, r"model\.protocol is published or standard"),
    ],
)
def test_settings_that_cannot_be(options, said):
    with pytest.raises(UserError, match=said):
        ProbeSweep(CLASSES, pictures().facts["cells"], 3, **options)


def test_pictures_that_do_not_suffice(tmp_path):
    with pytest.raises(UserError, match=r"data\.val_share lies between 0 and 1, got 1"):
        pictures(val_share=1.0)
    with pytest.raises(UserError, match=r"fitted on 0 pictures, chosen by 1 and tested on 1"):
        probed(pictures(dataset=partial(Pictures, count=1)), tmp_path)

    class Unlabelled(Pictures):
        labelled = False

    with pytest.raises(UserError, match="colours has no labels: choose a labelled dataset"):
        probed(pictures(dataset=Unlabelled), tmp_path)


class Painted(Pictures):
    """One colour a picture is its class, and the last class is of unknown ones; no masks."""

    name, labelled, num_classes = "painted", False, CLASSES
    picture_classes = ("red", "green", "blue", "none")

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index + 1000 * (self.split == "test"))
        label = index % CLASSES
        image = torch.full((3, SIDE, SIDE), -0.5)
        if label < 3:
            image[label] += 1
        noise = torch.randn(image.shape, generator=generator)
        return {"image": image + 0.3 * noise, "label": label, "index": index}


def pooled(split, timestep, block, part):
    """Pooled vectors of some pictures, and their samples."""
    net, dataset = Net(), Painted(split, 32)
    data = pictures(dataset=partial(Painted, count=32), timestep=timestep, block=block)
    source = data.sources.open(split, torch.device("cpu"))
    vectors = torch.cat([source.maps([index])[0].mean(1) for index in part])
    assert net.shapes[block][0] == vectors.shape[1]
    return vectors, torch.tensor([dataset[index]["label"] for index in part])


def one_hot(labels):
    rows = F.one_hot(labels, CLASSES).double()
    rows[labels == 3] = 0  # the ignored one
    return rows


def test_classes_of_whole_pictures_are_probed_as_each_cell_would_be_alone(tmp_path):
    data = pictures(dataset=partial(Painted, count=32), batch_size=5, val_share=0.25)
    task, figures = probed(data, tmp_path, ridges=[1e-3, 10.0])
    assert data.facts["target"] == "class"
    for cell, chosen in zip(task.cells, task.chosen, strict=True):
        place, sums = (cell.timestep, cell.block), ProbeSums(cell.channels, CLASSES)
        vectors, labels = pooled("train", *place, range(24))
        sums.add_rows(vectors[labels < 3], one_hot(labels)[labels < 3])
        held, truth = pooled("train", *place, range(24, 32))
        metric = Accuracy(CLASSES, 2)
        metric.update(sums.compute().discriminants([1e-3, 10.0]).scores(held), one_hot(truth))
        assert chosen.figure == pytest.approx(max(metric.compute().mean))
        sums.add_rows(held[truth < 3], one_hot(truth)[truth < 3])
        seen, truth = pooled("test", *place, range(32))
        final = Accuracy(CLASSES)
        scores = sums.compute().discriminants([chosen.ridge]).scores(seen)
        final.update(scores, one_hot(truth))
        assert figures[f"test/{cell.name}/accuracy"] == pytest.approx(final.compute().mean[0])
        assert figures[f"test/{cell.name}/accuracy_random"] == pytest.approx(1 / 3)
    tables = task.tables()
    best = max(tables["cells"], key=lambda row: row["accuracy"])
    assert (best["timestep"], best["accuracy"]) == (100, 1.0)
    own = [row for row in tables["classes"] if (row["timestep"], row["block"]) == (100, 1)]
    assert [row["class"] for row in own] == ["red", "green", "blue", "none"]
    assert [row["recall"] for row in own[:3]] == [1, 1, 1]
    assert np.isnan(own[3]["recall"])


def coded(latents=24, width=6, **options):
    """Painted pictures whose block 2 comes through a dictionary too."""
    torch.manual_seed(0)
    data = pictures(dataset=partial(Painted, count=32), timestep=100, sae="somewhere", **options)
    sae = TopK(width, torch.zeros(width), 1.0, latents=latents, k=3).requires_grad_(False)
    data._dictionary = sae.eval()
    return data


def test_codes_of_a_picture_are_probed_beside_its_features(tmp_path):
    data = coded(block=2, batch_size=5)
    task, figures = probed(data, tmp_path)
    assert [(cell.block, cell.channels) for cell in task.cells] == [
        (2, 6),
        ("2-mean", 24),
        ("2-max", 24),
    ]
    source = data.sources.open("train", torch.device("cpu"))
    own = data._dictionary.encode(source.maps([5])[0][0])
    loader = PooledLoader(source, [4, 5], 2, "class", sae=data._dictionary)
    raw, mean, most = next(iter(loader)).vectors
    torch.testing.assert_close(raw[1], source.maps([5])[0][0].mean(0))
    torch.testing.assert_close(mean[1], own.mean(0))
    torch.testing.assert_close(most[1], own.amax(0))
    assert figures["test/t0100-2-max/accuracy"] > 0.9 > figures["test/t0100-b02/accuracy_random"]
    rows = [row for row in task.tables()["latents"] if row["block"] == "2-mean"]
    assert {row["class"] for row in rows} == {*Painted.picture_classes}
    red = [index for index in range(32) if index % 4 == 0]
    codes = torch.stack([data._dictionary.encode(source.maps([i])[0][0]).mean(0) for i in red])
    every = [
        data._dictionary.encode(source.maps([i])[0][0]).mean(0) for i in range(32) if i % 4 < 3
    ]
    first = max((row for row in rows if row["class"] == "red"), key=lambda row: row["raises_score"])
    above = codes.mean(0) - torch.stack(every).mean(0)
    weight = task._readouts[1].weight[0, 0, first["latent"]]
    assert first["raises_score"] == pytest.approx(float(weight * above[first["latent"]]), rel=1e-3)


def test_dictionaries_that_do_not_fit_pictures_are_refused():
    with pytest.raises(UserError, match=r"of width 6, pixels of t0100-b01 have 3"):
        _ = coded(block="all").facts
    with pytest.raises(UserError, match=r"has 5000 latents, .* 4096 at most"):
        _ = coded(block=2, latents=5000).facts


def test_what_is_in_a_picture_is_ranked_class_by_class(tmp_path):
    data = pictures(dataset=partial(Pictures, count=40), target="presence", least_pixels=40)
    task, figures = probed(data, tmp_path, prevalence=[0.1, 0.9], ridges=[0.1])
    cell, sums = task.cells[1], ProbeSums(6, CLASSES)
    source = pictures(dataset=partial(Pictures, count=40), timestep=100, block=2).sources
    found = AveragePrecision(CLASSES)
    for split in ("train", "test"):
        opened = source.open(split, torch.device("cpu"))
        vectors = opened.maps(range(40))[0].mean(1)
        masks = torch.stack([opened.mask(index) for index in range(40)])
        truth = ((masks[..., None] == torch.arange(CLASSES)).sum((1, 2)) >= 40).double()
        truth[:, 3] = 0  # the ignored label is no class
        if split == "train":
            sums.add_rows(vectors, truth)
            share = truth[:30].mean(0)
            counted = (share >= 0.1) & (share <= 0.9)
            assert 0 < counted.sum() < CLASSES
            found.count_only(counted)
        else:
            found.update(sums.compute().detectors([0.1]).scores(vectors), truth)
    name = f"test/{cell.name}/average_precision"
    assert figures[name] == pytest.approx(found.compute().mean[0], abs=1e-6)
    assert figures[name] > figures[f"{name}_random"]
    rows = task.tables()["classes"]
    assert [row["in_mean"] for row in rows[:CLASSES]] == counted.tolist()


def test_targets_that_a_set_has_no_labels_for():
    for target, dataset, said in (
        ("class", Pictures, r"target=class .* colours have none: target=pixels or target=presence"),
        ("presence", Painted, r"target=presence .* painted have none: target=class"),
        ("pixels", Painted, r"target=pixels .* painted have none: target=class"),
        ("shape", Pictures, r"target is pixels, class, presence, attributes or null, got 'shape'"),
    ):
        with pytest.raises(UserError, match=said):
            _ = pictures(dataset=dataset, target=target).facts


def test_pictures_that_tell_nothing_apart(tmp_path):
    class Red(Painted):
        def __getitem__(self, index):
            return super().__getitem__(index) | {"label": 0}

    class Wrong(Painted):
        def __getitem__(self, index):
            return super().__getitem__(index) | {"label": 7}

    with pytest.raises(UserError, match="the 6 pictures fitted on show red: give more"):
        probed(pictures(dataset=Red), tmp_path)
    with pytest.raises(UserError, match="of painted has class 7, and there are 0 to 3"):
        probed(pictures(dataset=Wrong), tmp_path)

    class Warm(Painted):
        def __getitem__(self, index):
            return super().__getitem__(index) | {"label": index % 2}

    with pytest.warns(UserWarning, match="No picture fitted on is of class blue: what is never"):
        probed(pictures(dataset=Warm), tmp_path)
    few = pictures(target="presence", least_pixels=SIDE * SIDE)
    with pytest.raises(UserError, match=r"No class is in 0\.5 to 0\.6 of the 6 pictures fitted on"):
        probed(few, tmp_path, prevalence=[0.5, 0.6])
    with pytest.raises(UserError, match=r"model\.prevalence is the smallest and the largest"):
        probed(pictures(target="presence"), tmp_path, prevalence=[0.9, 0.1])
