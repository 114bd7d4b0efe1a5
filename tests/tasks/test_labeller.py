"""Labels for pictures in memory, as a segmenter gives them to stored features; and for samples."""

import csv
import json
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset

from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.pixels import Pixels
from diffdict.bilinear.maps import NativeMaps
from diffdict.data.npz import NpzDataset
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim
from diffdict.errors import UserError
from diffdict.features.noise import Noise
from diffdict.features.sources import LiveSource
from diffdict.features.whole_pictures import hold
from diffdict.metrics.segmentation import top_tenth
from diffdict.reports.samples.labels import LabelReport
from diffdict.tasks.deeplab import DeepLab
from diffdict.tasks.labeller import Labeller, open_deeplab
from diffdict.tasks.pixel_mlp import PixelMLP
from diffdict.tasks.samples import SampleIndices, Samples

SIDE = 16
WHERE = {"timestep": [40, 10], "block": [1, 0]}


class InMemory(Dataset):
    """Some pictures as a dataset."""

    image_size = SIDE

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "index": index}


def network():
    torch.manual_seed(0)
    net = GuidedUNet(SIDE, 32, 1, channel_mult="1,1", attention_resolutions="8", name="tiny")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.05)
    return net


def segmenter(net, classes=5, members=3, **options):
    """An ensemble far from its start, so that its members disagree."""
    width = sum(net.shapes[block][0] for block in (0, 1)) * 2
    made = PixelMLP(torch.optim.Adam, width, classes, members=members, **options)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.net.parameters():
        parameter.data.normal_(0, 0.5, generator=generator)
    return made


def labeller(net=None, segmenter=segmenter, **options):
    net = net or network()
    made = segmenter if isinstance(segmenter, PixelMLP) else segmenter(net)
    asked = {**WHERE, "image_size": SIDE, "dtype": "fp32", "noise": {"shared": False, "seed": 3}}
    return Labeller(made, net, **{**asked, **options})


IMAGES = torch.rand(9, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_labels_are_those_of_stored_features():
    own = labeller()
    noise = Noise(shared=False, seed=3)
    source = LiveSource(InMemory(IMAGES), own.net, *WHERE.values(), noise, dtype="fp32")
    found = own(IMAGES, list(range(9)))
    for index in range(9):
        stored = own.segmenter.predict(hold(source, [index], (SIDE, SIDE)))
        assert torch.equal(found.masks[index], stored.majority)
        torch.testing.assert_close(found.doubt[index], stored.uncertainty)
        torch.testing.assert_close(found.scores[index], top_tenth(stored.uncertainty))
    assert len(found.masks.unique()) > 1
    assert len(found.scores.unique()) == 9


def test_a_picture_is_labelled_alike_in_any_batch():
    own = labeller()
    together = own(IMAGES, list(range(9)))
    alone = [own(IMAGES[i : i + 1], [i]) for i in range(9)]
    torch.testing.assert_close(torch.cat([one.scores for one in alone]), together.scores)
    same = (torch.cat([one.masks for one in alone]) == together.masks).float().mean()
    assert same > 0.999
    assert not torch.equal(own(IMAGES[:1], [5]).scores, together.scores[:1]), "its own noise"


def test_maps_of_a_backbone_are_held_as_they_are():
    maps = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 8, 8), torch.randn(2, 2, 4, 4)]
    held = NativeMaps.of(maps, (8, 8), torch.float32)
    assert all(torch.equal(x, y) for x, y in zip(held.images(), maps, strict=True))
    assert (len(held), held.channels, held.size) == (2, 10, (8, 8))


def test_a_network_without_timesteps_looks_too():
    net = Pixels(image_size=SIDE)
    made = PixelMLP(torch.optim.Adam, sum(c for c, _, _ in net.shapes.values()), 4, members=2)
    own = Labeller(made, net, timestep=50, block="all", image_size=SIDE)
    assert own(IMAGES[:2], [0, 1]).masks.shape == (2, SIDE, SIDE)


def test_what_changes_a_label_changes_the_identity():
    one, other = labeller(), labeller(timestep=[40, 11])
    assert one.identity != other.identity
    assert one.identity == labeller(network()).identity


def test_a_network_of_pixels_labels_through_no_other(tmp_path):
    told = {"num_classes": 3, "class_names": ["a", "b", "c"], "ignore_label": 2}
    module = DeepLab(torch.optim.Adam, **told, depth=50, width=0.125)
    content = {"facts": {**told, "image_size": SIDE}, "state_dict": module.state_dict()}
    torch.save({**content, "pytorch-lightning_version": "2"}, tmp_path / "last.ckpt")
    path, shape = str(tmp_path / "last.ckpt"), {"depth": 50, "width": 0.125, "auxiliary": False}
    own = open_deeplab(network(), path, **shape)
    found = own(IMAGES[:3], [0, 1, 2])
    assert torch.equal(found.masks, module.segment(module.chosen, IMAGES[:3]))
    assert (own.ignore_label, own.image_size, own.identity["labels_by"]) == (2, SIDE, "deeplab")
    shares = module.shares(IMAGES[:3])
    torch.testing.assert_close(found.doubt, -(shares * shares.clamp(min=1e-30).log()).sum(1))
    assert found.scores.shape == (3,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestep": 1000}, "needs a timestep between 0 and 999, got 1000"),
        ({"block": [0, 9]}, "tiny has no block 9"),
        ({"backbone_sha256": "0" * 64}, r"learned from tiny with the weights 000000000000…"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        labeller(**options)


CLASSES = ["a", "b", "c", "d", "e"]
SAMPLER = partial(ddim, respacing="3")


class Real(InMemory):
    """Pictures of the labeller's classes; the first class fills them, the last is ignored."""

    name, labelled, num_classes, ignore_label = "real", True, 5, 4
    class_names, palette = CLASSES, [(0, 0, 0)] * 5

    def __init__(self, split):
        super().__init__(IMAGES[:3])

    def __getitem__(self, index):
        mask = torch.zeros(SIDE, SIDE, dtype=torch.int64)
        mask[0], mask[-1] = 1, 4
        return {"image": self.images[index], "mask": mask, "index": index}


def draw(folder, number=7, shard_size=3, batch_size=2, sampler=SAMPLER, real=Real, **options):
    """Labelled samples of the tiny network."""
    net, data = network(), SampleIndices(number, shard_size, batch_size)
    made = partial(labeller, segmenter=segmenter(net, class_names=CLASSES), **options)
    task = Samples(
        net, sampler, Objective(variance="fixed_small"), str(folder), **data.facts, labeller=made
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[LabelReport(real)],
    )
    trainer.predict(task, data, return_predictions=False)
    return task


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_shards_hold_what_published_tools_take_and_say_what_made_them(tmp_path):
    task = draw(tmp_path)
    files = sorted(tmp_path.glob("*.npz"))
    assert [file.name for file in files][-1] == "samples_000006-000006.npz"
    with np.load(files[0]) as arrays:
        images, masks, unsure = arrays.values()  # three, no more: their number tells the form
    assert (images.dtype, images.shape) == (np.uint8, (3, SIDE, SIDE, 3))
    assert (masks.dtype, masks.shape) == (np.uint8, (3, SIDE, SIDE))
    assert (unsure.dtype, unsure.shape) == (np.float32, (3,))
    seen = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    again = task.labeller(seen, [0, 1, 2])  # of the rounded pictures: nearly the same
    assert (again.masks.numpy() == masks).mean() > 0.95
    np.testing.assert_allclose(again.scores, unsure, rtol=0.05)
    kept = json.loads((tmp_path / "samples.json").read_text())
    assert (kept["timestep"], kept["block"], kept["seed"]) == ([40, 10], [0, 1], 0)
    assert json.loads((tmp_path / "classes.json").read_text())["classes"] == CLASSES


def test_a_sample_has_its_labels_in_any_batch_shard_and_run(tmp_path):
    draw(tmp_path / "a")
    draw(tmp_path / "b", batch_size=7, shard_size=4)
    (tmp_path / "b" / "samples_000004-000006.npz").unlink()
    draw(tmp_path / "b", batch_size=1, shard_size=4)
    one, other = (NpzDataset("set", str(tmp_path / name), "train") for name in "ab")
    np.testing.assert_allclose(one.uncertainty, other.uncertainty, rtol=1e-4)
    same = [(one[i]["mask"] == other[i]["mask"]).float().mean() for i in range(7)]
    assert min(same) > 0.99
    assert len(set(one.uncertainty)) == 7


def test_the_report_counts_classes_beside_real_ones_and_orders_by_doubt(tmp_path, capsys):
    draw(tmp_path)
    data, table = NpzDataset("set", str(tmp_path), "train"), rows(tmp_path / "labels.csv")
    masks = torch.stack([data[i]["mask"] for i in range(7)])
    shares = masks.flatten().bincount(minlength=5) / masks.numel()
    held = torch.stack([(masks == c).flatten(1).any(1).float().mean() for c in range(5)])
    assert [row["class"] for row in table] == CLASSES
    for column, expected in (("pixels", shares), ("pictures", held)):
        got = torch.tensor([float(row[column]) for row in table])
        torch.testing.assert_close(got, expected)
    assert [float(row["real_pixels"]) for row in table] == pytest.approx([14 / 15, 1 / 15, 0, 0, 0])
    assert [float(row["real_pictures"]) for row in table] == [1, 1, 0, 0, 0]
    listed = rows(tmp_path / "samples.csv")
    assert [int(row["sample"]) for row in listed] == list(range(7))
    assert [float(row["uncertainty"]) for row in listed] == pytest.approx(data.uncertainty)
    assert (listed[4]["file"], listed[4]["row"]) == ("samples_000003-000005.npz", "1")
    said = capsys.readouterr().out
    assert f"mean {data.uncertainty.mean():.4g}" in said
    assert (tmp_path / "labels.png").is_file()
    assert (tmp_path / "sheet.png").is_file()


class Broken:
    """A sampler whose second sample is no number."""

    @staticmethod
    def ddim(net, x, schedule, *, objective, noise, on_step, respacing=""):
        made = ddim(net, x, schedule, objective=objective, respacing="2")
        made.x[1, 0, 3, 3] = torch.nan
        return made


class Other(Real):
    """Real pictures of other classes."""

    name, class_names = "other", ["x", "y"]


def away(split, name="real", class_names=None):
    raise UserError("No pictures of real here")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 8}, r"learned from pictures of 8×8, tiny draws 16×16: .*image_size=16"),
        ({"sampler": partial(Broken.ddim)}, r"ddim ended in what is no number for sample 1 .*32"),
        ({"real": Other}, r"knows 5 classes \(a, b, c …\), other has 2 \(x, y …\): dataset=…"),
        ({"real": partial(away, name="far", class_names=["x", "y"])}, r"far has 2 \(x, y …\)"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(UserError, match=message) as refusal:
        draw(tmp_path, **options)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.glob("*.npz"))


def test_without_the_real_pictures_there_is_nothing_to_compare_with(tmp_path, capsys):
    draw(tmp_path, number=1, real=away)
    assert "No real pictures to compare with: No pictures of real here" in capsys.readouterr().out
    assert set(rows(tmp_path / "labels.csv")[0]) == {"class", "pixels", "pictures"}


def test_other_labels_are_not_mixed_in(tmp_path):
    draw(tmp_path, number=2)
    with pytest.raises(UserError, match=r"their timestep is \[40, 10\], and now \[40, 11\]"):
        draw(tmp_path, number=2, timestep=[40, 11])
