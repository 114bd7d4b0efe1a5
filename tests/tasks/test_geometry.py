"""task=geometry: two noises of each picture, groups as published, the same however batches fall."""

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from diffdict.backbones.base import Backbone
from diffdict.data.base import Pictures
from diffdict.data.images import ImageDataModule
from diffdict.errors import UserError
from diffdict.features.noise import Noise
from diffdict.metrics.geometry import SphereGeometry, alignment, grouped_uniformity, uniformity
from diffdict.seeds import entropy
from diffdict.tasks.geometry import Geometry

SIDE = 6


class Dots(Pictures):
    """Pictures of noise; those of other splits are others."""

    name, image_size, fingerprint = "dots", SIDE, "dots"

    def __init__(self, split, count=11):
        self.split, self.count = split, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index + 1000 * (self.split == "test"))
        return {"image": torch.randn(3, SIDE, SIDE, generator=generator), "index": index}


class Net(Backbone):
    """Two blocks that see less with every timestep."""

    name, image_size, num_timesteps = "net", SIDE, 1000

    def __init__(self):
        super().__init__()
        self.shapes = {1: (3, 3, 3), 2: (6, SIDE, SIDE)}

    def features(self, images, timestep=None, blocks=None, noise=None):
        x = images * (1 - timestep / 1000) + noise * timestep / 1000
        maps = {1: F.avg_pool2d(x, 2), 2: torch.cat([x, x.square()], 1)}
        return {block: maps[block] for block in self.chosen(blocks)}


def measured(folder, batch_size=4, split="train", **options):
    asked = {"timestep": [50, 700], "block": "all", "noise": Noise(shared=False)}
    module = Geometry(Net(), **{**asked, **options})
    data = ImageDataModule(Dots, batch_size=batch_size, test_split=split)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", default_root_dir=folder, **quiet)
    trainer.test(module, data, verbose=False)
    return module, {key: float(value) for key, value in trainer.callback_metrics.items()}


def by_hand(split, timestep, block, seed):
    """A block's pooled features on the sphere, one picture after the other."""
    net, noise, rows = Net(), Noise(shared=False, seed=seed), []
    for index in range(11):
        image = Dots(split)[index]["image"][None]
        own = noise.for_pictures([index], (3, SIDE, SIDE))[0]
        rows.append(net.features(image, timestep, [block], own)[block].mean((2, 3)))
    return F.normalize(torch.cat(rows), dim=1)


@pytest.mark.parametrize("split", ["train", "test"])
def test_figures_are_those_of_both_views_of_every_picture(tmp_path, split):
    module, figures = measured(tmp_path, split=split, group=4)
    for cell, row in zip(module.cells, module.tables()["cells"], strict=True):
        place = split, cell.timestep, cell.block
        first, second = by_hand(*place, 0), by_hand(*place, entropy(0, 1))
        assert row["alignment"] == pytest.approx(float(alignment(first, second)), rel=1e-5)
        each = [grouped_uniformity(view, 4) for view in (first, second)]
        assert row["uniformity"] == pytest.approx(float(sum(each)) / 2, rel=1e-5)
        assert figures[f"test/{cell.name}/alignment"] == pytest.approx(row["alignment"])
    later = [row["alignment"] for row in module.tables()["cells"] if row["timestep"] == 700]
    assert min(later) > module.tables()["cells"][0]["alignment"]  # noise parts the views


def test_batches_do_not_matter(tmp_path):
    one, other = (measured(tmp_path, size, group=4)[1] for size in (3, 11))
    assert one == pytest.approx(other, rel=1e-6)


def test_groups_are_weighed_by_their_rows_and_a_single_row_is_left_out():
    rows = F.normalize(torch.randn(11, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    parts = [uniformity(part) for part in rows.split(4)]
    expected = (4 * parts[0] + 4 * parts[1] + 3 * parts[2]) / 11
    torch.testing.assert_close(grouped_uniformity(rows, 4), expected)
    pair = (uniformity(rows[:5]) + uniformity(rows[5:10])) / 2
    torch.testing.assert_close(grouped_uniformity(rows, 5), pair)
    torch.testing.assert_close(grouped_uniformity(rows, None), uniformity(rows))


def test_the_order_in_which_pictures_come_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(9, 3, generator=generator) for _ in range(2))
    straight, shuffled = SphereGeometry(group=4), SphereGeometry(group=4)
    straight.update(first, second, torch.arange(9))
    for part in (torch.tensor([8, 1, 3]), torch.tensor([0, 2, 7, 6, 5, 4])):
        shuffled.update(first[part], second[part], part)
    assert straight.compute() == shuffled.compute()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"group": 1}, r"model\.group is 2 rows or more, or null for all, got 1"),
        ({"t": 0}, r"model\.alpha and model\.t are positive, got 2 and 0"),
        ({"block": 9}, "net has no block 9"),
        ({"timestep": 1000}, "needs a timestep between 0 and 999"),
    ],
)
def test_settings_that_cannot_be(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        measured(tmp_path, **options)


def test_a_network_without_timesteps_has_one_view_only():
    class Plain(Net):
        num_timesteps = None

    with pytest.raises(UserError, match="net has no timesteps: give a diffusion network"):
        Geometry(Plain(), block="all")
