"""Labelled pixels: gathered as interpolated, prepared as published, in an order that resumes."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from diffdict.backbones.base import Backbone
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.bilinear.maps import NativeMaps
from diffdict.data import base
from diffdict.errors import UserError
from diffdict.features.noise import Noise
from diffdict.features.pixels.data_module import PixelDataModule, PixelLoader, ignore_small

SIDE = 12


class Pictures(base.Pictures):
    """Labelled noise: every split has its own pictures."""

    name, image_size, num_classes, labelled = "noise", SIDE, 4, True
    class_names, palette, ignore_label = ["a", "b", "c", "d"], [(0, 0, 0)] * 4, 3

    def __init__(self, split="train", count=5):
        self.split, self.count = split, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index + 1000 * (self.split == "test"))
        image = torch.rand(3, SIDE, SIDE, generator=generator) * 2 - 1
        mask = torch.randint(4, (SIDE, SIDE), generator=generator)
        return {"image": image, "mask": mask, "index": index}


class Net(Backbone):
    """Two blocks at two resolutions that depend on the timestep and the noise."""

    name, image_size, num_timesteps = "net", SIDE, 1000

    def __init__(self):
        super().__init__()
        self.shapes = {1: (3, 6, 6), 2: (6, SIDE, SIDE)}

    def features(self, images, timestep=None, blocks=None, noise=None):
        x = images * (1 - timestep / 1000) + noise * timestep / 1000
        maps = {1: F.avg_pool2d(x, 2), 2: torch.cat([x, -x], 1)}
        return {block: maps[block] for block in self.chosen(blocks)}


def as_maps(images, size):
    """NativeMaps of [pictures, channels, height, width] images."""
    widths, grids = [x.shape[1] for x in images], [tuple(x.shape[2:]) for x in images]
    maps = NativeMaps.empty(len(images[0]), widths, grids, size, images[0].dtype)
    for room, x in zip(maps.maps, images, strict=True):
        room.copy_(x.flatten(2).mT)
    return maps


def all_pixels(maps, index):
    """Every pixel of a picture, as an image."""
    rows = torch.cat([features for _, features in maps.pixels(index, chunk=37)])
    return rows.T.unflatten(1, maps.size)


side = st.integers(1, 9)


@settings(max_examples=60, deadline=None)
@given(
    grids=st.lists(st.tuples(side, side), min_size=1, max_size=3),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    seed=st.integers(0, 99),
)
def test_a_gathered_pixel_is_the_interpolated_one(grids, size, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(2, 3, *grid, generator=generator).to(dtype) for grid in grids]
    upsampled = [F.interpolate(x.float(), size, mode="bilinear") for x in images]
    maps = as_maps(images, size)
    torch.testing.assert_close(all_pixels(maps, 1), torch.cat(upsampled, 1)[1], atol=1e-5, rtol=0)


def test_a_chunk_border_does_not_show():
    maps = as_maps([torch.randn(2, 5, 7, 3)], (31, 17))
    place = torch.arange(31 * 17)
    rows = maps.gather(torch.ones_like(place), place // 17, place % 17)
    torch.testing.assert_close(rows.T.unflatten(1, (31, 17)), all_pixels(maps, 1), atol=0, rtol=0)


def test_one_picture_is_a_view_and_images_are_its_maps():
    image = torch.randn(3, 4, 5, 2)
    maps = as_maps([image], (10, 10))
    one = maps.picture(2)
    torch.testing.assert_close(one.images()[0], image[2:], atol=0, rtol=0)
    assert one.images()[0].data_ptr() == maps.maps[0][2].data_ptr()
    assert maps.channels == 4
    assert maps.nbytes == 3 * 4 * 10 * 4


def test_features_are_the_published_ones(golden):
    case = golden("dseg_features")
    names = [output["name"] for output in case.facts["outputs"]]
    keys = "image_size num_channels num_res_blocks num_heads num_heads_upsample num_head_channels"
    keys += " attention_resolutions channel_mult dropout class_cond use_checkpoint"
    keys += " use_scale_shift_norm resblock_updown use_new_attention_order learn_sigma"
    config = {key: case.facts["config"][key] for key in keys.split()}
    net = case.fill(GuidedUNet(name="tiny", **config))
    images = np.random.default_rng(3001).random((2, 3, 32, 32), dtype=np.float32) * 2 - 1
    noise = np.random.default_rng(3002).standard_normal((1, 3, 32, 32), dtype=np.float32)
    steps, blocks = case.facts["extractor"]["steps"], case.facts["extractor"]["blocks"]
    with torch.no_grad():
        found = [
            net.features(torch.from_numpy(images), step, blocks, torch.from_numpy(noise))
            for step in steps
        ]
    seen = set()
    for index in range(2):
        maps = [
            (step, block, x[index : index + 1])
            for step, blocks_ in zip(steps, found, strict=True)
            for block, x in blocks_.items()
        ]
        outputs = {f"t{step}.block{block}": x for step, block, x in maps}
        images_ = [x for _, _, x in maps]
        outputs["collected_32x32"] = all_pixels(as_maps(images_, (32, 32)), 0)
        outputs["collected_40x40"] = all_pixels(as_maps(images_, (40, 40)), 0)
        outputs["pixel_rows"] = outputs["collected_32x32"].flatten(1).T[::97]
        for name, value in outputs.items():
            if f"img{index}.{name}" in names:
                case.check(f"img{index}.{name}", value)
                seen.add(f"img{index}.{name}")
    assert seen == set(names)


def prepared_case():
    """The pictures and masks of the golden dseg_prepare."""
    images, masks = [], []
    for i in range(3):
        base = np.random.default_rng(3201 + i).integers(0, 6, size=(4, 4))
        base = np.repeat(np.repeat(base, 4, 0), 4, 1).reshape(-1)
        spread = np.random.default_rng(3201 + 50 + i).integers(0, 256, size=(30,))
        for j in range(30):
            base[spread[j]] = (j // 7) % 6
        masks.append(torch.from_numpy(base.reshape(16, 16)))
        image = np.random.default_rng(3201 + 500 + i).random((3, 16, 16), dtype=np.float32) * 2 - 1
        images.append(torch.from_numpy(np.stack([image[0] * (k + 1) for k in range(3)])))
    return torch.stack(images), torch.stack(masks)


def test_preparation_is_the_published_one(golden):
    case = golden("dseg_prepare")
    images, masks = prepared_case()
    labels = ignore_small(masks, case.facts["inputs"]["ignore_label"])
    loader = PixelLoader(as_maps([images], (16, 16)), labels, ignore_label=0)
    prepared = loader.read(loader.kept)
    case.check("prepared.y", prepared.labels)
    case.check("prepared.X", prepared.features)


def test_a_small_annotation_is_dropped_even_without_an_ignore_label():
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[0, 0, :5] = 7
    labels = ignore_small(mask, None, least=6)
    assert labels.unique().tolist() == [-1, 0]
    assert ignore_small(mask, None, least=5).unique().tolist() == [0, 7]
    assert ignore_small(mask, 7, least=99).unique().tolist() == [7]
    loader = PixelLoader(as_maps([torch.randn(1, 2, 4, 4)], (8, 8)), labels)
    assert len(loader.kept) == 59


def numbered(pixels=50, **options):
    """A loader whose features are the pixel's own number."""
    images = torch.arange(pixels, dtype=torch.float32).view(1, 1, 1, pixels)
    labels = torch.arange(pixels).view(1, 1, pixels)
    return PixelLoader(as_maps([images], (1, pixels)), labels, **options)


def drawn(loader):
    """The labels of one epoch, batch by batch, each agreeing with its features."""
    batches = []
    for features, labels in loader:
        torch.testing.assert_close(features[..., 0], labels.float(), atol=1e-5, rtol=0)
        batches.append(labels.tolist())
    return batches


def flat(batches):
    return sorted(np.array(batches).flatten().tolist())


def test_an_epoch_draws_every_pixel_once_and_two_epochs_differ():
    loader = numbered(batch_size=10)
    first, second = drawn(loader), drawn(loader)
    assert flat(first) == flat(second) == list(range(50))
    assert first != second
    assert first == drawn(numbered(batch_size=10))
    assert first != drawn(numbered(batch_size=10, seed=1))


def test_every_member_has_its_own_order():
    batches = np.array(drawn(numbered(batch_size=10, members=3)))
    assert batches.shape == (5, 3, 10)
    for member in range(3):
        assert flat(batches[:, member]) == list(range(50))
    assert (batches[:, 0] != batches[:, 1]).any()
    assert batches[:, 0].tolist() == drawn(numbered(batch_size=10))


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 9), world=st.integers(1, 4), seed=st.integers(0, 9))
def test_ranks_share_an_epoch_without_overlap(batch, world, seed):
    parts = [
        drawn(numbered(batch_size=batch, seed=seed, rank=rank, world=world))
        for rank in range(world)
    ]
    assert len({len(part) for part in parts}) == 1
    together = [pixel for part in parts for pixel in flat(part)]
    assert len(set(together)) == len(together) == 50 // (batch * world) * batch * world


@settings(max_examples=25, deadline=None)
@given(stop=st.integers(0, 14))
def test_resuming_anywhere_continues_the_order(stop):
    straight = numbered(batch_size=10)
    both = drawn(straight) + drawn(straight) + drawn(straight)
    loader, before = numbered(batch_size=10), []
    while len(before) < stop:
        for _, labels in loader:
            before.append(labels.tolist())
            if len(before) == stop:
                break
    resumed = numbered(batch_size=10)
    resumed.go_to(loader.place())
    assert before + drawn(resumed) == both[: 5 * (stop // 5 + 1)]


def live(**options):
    asked = {"timestep": [50, 150], "block": [2, 1], "source": "live", "dtype": "fp32"}
    return PixelDataModule(dataset=Pictures, backbone=Net, **{**asked, "batch_size": 16, **options})


def test_live_maps_are_the_backbones_in_timestep_then_block_order():
    data = live()
    data.setup("fit")
    assert data.facts["d_in"] == 18
    assert data.facts["maps"] == ["t0050-b01", "t0050-b02", "t0150-b01", "t0150-b02"]
    image = Pictures()[2]["image"][None]
    noise = Noise().for_pictures([2], (3, SIDE, SIDE))[0]
    maps = [x for step in (50, 150) for x in Net().features(image, step, [1, 2], noise).values()]
    held, labels = data._labelled_maps
    expected = torch.cat([F.interpolate(x, (SIDE, SIDE), mode="bilinear") for x in maps], 1)[0]
    torch.testing.assert_close(all_pixels(held, 2), expected, atol=1e-5, rtol=0)
    assert len(held) == 5
    assert labels.shape == (5, SIDE, SIDE)


def test_test_pictures_come_whole_with_every_label():
    data = live()
    data.setup("test")
    pictures = list(data.test_dataloader())
    assert [picture.index for picture in pictures] == list(range(5))
    assert torch.equal(pictures[1].mask, Pictures("test")[1]["mask"])
    assert pictures[1].maps.to("cpu").channels == 18


def test_validation_pictures_are_not_trained_on():
    data = live(val_pictures=2, smallest_annotation=0)
    data.setup("fit")
    assert len(data._labelled_maps[0]) == 3
    assert [picture.index for picture in data.val_dataloader()] == [3, 4]


def test_members_that_have_stopped_draw_no_pixels():
    loader, whole = numbered(batch_size=10, members=3), drawn(numbered(batch_size=10, members=3))
    batches = []
    for features, labels in loader:
        assert len(features) == len(labels)
        batches.append(labels.tolist())
        loader.only([2, 0] if len(batches) < 3 else [2])
    assert batches[0] == whole[0]
    assert batches[1:3] == [[batch[2], batch[0]] for batch in whole[1:3]]
    assert batches[3:] == [batch[2] for batch in whole[3:]]


def test_ranks_may_draw_alike(monkeypatch):
    monkeypatch.setattr(PixelDataModule, "_rank_and_world", lambda data: (1, 2))
    data = live(alike=True)
    data.setup("fit")
    one = numbered(len(data.train_dataloader().kept), batch_size=16)
    assert len(data.train_dataloader()) == len(one)
    other = live()
    other.setup("fit")
    assert len(other.train_dataloader()) == len(one) // 2


class Spoilt(Net):
    """Features of one picture are no numbers."""

    def features(self, images, timestep=None, blocks=None, noise=None):
        maps = super().features(images, timestep, blocks, noise)
        if torch.equal(images[0], Pictures()[3]["image"]):
            maps[2][0, 1, 2, 3] = torch.nan
        return maps


def test_features_that_are_no_numbers_are_named():
    data = PixelDataModule(
        dataset=Pictures, backbone=Spoilt, timestep=50, block=[1, 2], source="live"
    )
    said = r"t0050-b02 of net holds NaN or infinity for picture 3: try data\.dtype=fp32"
    with pytest.raises(UserError, match=said):
        data.setup("fit")


class OneLabel(Pictures):
    """Every pixel is of one class."""

    label = 3

    def __getitem__(self, index):
        return {**super().__getitem__(index), "mask": torch.full((SIDE, SIDE), self.label)}


def test_pictures_that_are_all_ignored_teach_nothing():
    data = PixelDataModule(dataset=OneLabel, backbone=Net, block=1, source="live")
    with pytest.raises(UserError, match=r"training pictures of noise \(5\) hold no labelled pixel"):
        data.setup("fit")


def test_classes_without_a_pixel_are_named(monkeypatch):
    monkeypatch.setattr(OneLabel, "label", 1)
    data = PixelDataModule(dataset=OneLabel, backbone=Net, block=1, source="live", val_pictures=2)
    with pytest.warns(UserWarning, match="No training pixel is a, c: .* can only score 0"):
        data.setup("fit")
    assert data.class_pixels.tolist() == [0, 3 * SIDE**2, 0, 0]


def train_batches(**options):
    data = live(**options)
    data.setup("fit")
    return data.train_dataloader()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"source": "cloud"}, "store or live"),
        ({"val_pictures": 5}, "must leave training pictures"),
        ({"batch_size": 10_000}, "lower data.batch_size"),
    ],
)
def test_what_cannot_be_is_said(options, sentence):
    with pytest.raises(UserError, match=sentence):
        train_batches(**options)


class Recorder(pl.LightningModule):
    """Keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, _):
        self.seen.append(batch.labels.tolist())
        return self.weight * batch.features.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(folder, data, resume=False, **options):
    """What a trainer saw that leaves a checkpoint at its 37th step."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    keep = pl.callbacks.ModelCheckpoint(folder, "step37", every_n_train_steps=37, save_top_k=-1)
    model = Recorder()
    trainer = pl.Trainer(accelerator="cpu", callbacks=[keep], **quiet, **options)
    trainer.fit(model, data, ckpt_path=folder / "step37.ckpt" if resume else None)
    return model.seen


def test_a_resumed_trainer_sees_what_a_straight_one_sees(tmp_path):
    straight = fit(tmp_path / "straight", live(), max_epochs=3)
    first = fit(tmp_path, live(), max_steps=37)
    assert 37 % (len(straight) // 3) != 0
    rest = fit(tmp_path, live(), resume=True, max_epochs=3)
    assert first + rest == straight
