"""Probe sweeps: every cell as if it had been fitted alone, and the cell that knows is found."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from diffdict.backbones.base import Backbone
from diffdict.errors import UserError
from diffdict.features.probes import ProbePictures, lie
from diffdict.metrics.discriminant import ProbeSums
from diffdict.metrics.segmentation import Segmentation
from diffdict.tasks.probe_sweep import ProbeSweep

SIDE, CLASSES = 12, 4


class Pictures(Dataset):
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
    task = ProbeSweep(facts["num_classes"], facts["cells"], facts["ignore_label"], **options)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", default_root_dir=folder, **quiet)
    trainer.test(task, data, verbose=False)
    return task, {name: float(value) for name, value in trainer.callback_metrics.items()}


def alone(split, timestep, block, part, sums):
    """The pictures of a part with one map each, and what they add to the sums."""
    data = pictures(timestep=timestep, block=block)
    source, seen = data.origin.open(split, torch.device("cpu")), []
    for index in part:
        tokens, mask = source.maps([index])[0][0], source.mask(index)
        seen.append((tokens, (source.streams[0].height,) * 2, mask))
        if split == "train":
            sums.update(tokens, *lie(mask, seen[-1][1], CLASSES, 3))
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
        assert chosen.miou == pytest.approx(max(scores.values()))
        assert scores[chosen.ridge] == max(scores.values())
        tested = alone("test", *place, range(8), ProbeSums(cell.channels, CLASSES))
        final = miou(tested, sums.compute().discriminants([chosen.ridge]))
        assert figures[f"test/{cell.name}/miou"] == pytest.approx(final)
        assert figures[f"val/{cell.name}/miou"] == pytest.approx(chosen.miou)


def test_the_cell_that_knows_is_found(tmp_path):
    task, figures = probed(pictures(), tmp_path, protocol="standard")
    rows = task.tables()["cells"]
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
