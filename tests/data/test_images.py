"""Batches of pictures: who sees what, once; what a mirror does to a mask; resume in mid-epoch."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffdict.data.attributes import Attribute, mirror_attributes
from diffdict.data.base import Pictures
from diffdict.data.batches.augmented import paired_crop, paired_flip, paired_zoom
from diffdict.data.images import (
    ImageDataModule,
    Part,
    epoch_order,
    evaluation_batches,
    training_batches,
)
from diffdict.errors import UserError


class Numbered(Pictures):
    """Pictures whose pixels say their number and place; the mask repeats the first channel."""

    name, class_names, num_classes, palette = "numbered", [], 0, []
    ignore_label, labelled, image_size = None, True, 8

    def __init__(self, split: str, sizes: dict[str, int] | None = None):
        self.split = split
        self.size = (sizes or {"train": 22, "val": 0, "test": 7})[split]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.size:
            raise IndexError(index)
        mask = torch.arange(64).reshape(8, 8) + 64 * index
        return {"image": mask.float().expand(3, 8, 8).clone(), "mask": mask, "index": index}


class Diary(pl.LightningModule):
    """Remembers the batches it was trained on, and breaks when told to."""

    def __init__(self, break_at: int | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[torch.Tensor] = []
        self.break_at = break_at

    def training_step(self, batch, _):
        if self.break_at is not None and len(self.seen) == self.break_at:
            raise KeyboardInterrupt
        self.seen.append(batch["image"].clone())
        return self.weight * batch["image"].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder, steps: int, **more) -> pl.Trainer:
    return pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        **({"enable_checkpointing": False} | more),
    )


def module(workers: int = 0, **more) -> ImageDataModule:
    options = {"batch_size": 4, "flip": True, "crop_padding": 2, "seed": 3}
    return ImageDataModule(Numbered, num_workers=workers, **(options | more))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("stop", "limit"), [(3, None), (7, None), (5, None), (10, None), (4, 3)])
def test_a_resumed_run_sees_what_a_straight_one_sees(tmp_path, workers, stop, limit):
    straight, first, second = Diary(), Diary(), Diary()
    more = {"limit_train_batches": limit} if limit else {}
    trainer(tmp_path, 13, **more).fit(straight, datamodule=module())

    interrupted = trainer(tmp_path, stop, **more)
    interrupted.fit(first, datamodule=module(workers))
    interrupted.save_checkpoint(tmp_path / "stopped.ckpt")
    trainer(tmp_path, 13, **more).fit(
        second, datamodule=module(workers), ckpt_path=tmp_path / "stopped.ckpt"
    )

    assert len(first.seen) == stop
    assert len(straight.seen) == 13
    torch.testing.assert_close(first.seen + second.seen, straight.seen, rtol=0, atol=0)


@pytest.mark.parametrize("every", ["step", "epoch"])
def test_a_checkpoint_of_the_callback_resumes_too(tmp_path, every):
    rule = {"every_n_train_steps": 4} if every == "step" else {"every_n_epochs": 1}
    keep = pl.callbacks.ModelCheckpoint(
        tmp_path, filename="{epoch}-{step}", save_top_k=-1, save_on_train_epoch_end=True, **rule
    )
    straight = Diary()
    options = {"enable_checkpointing": True, "callbacks": [keep]}
    trainer(tmp_path, 13, **options).fit(straight, datamodule=module())
    for saved in sorted(tmp_path.glob("*.ckpt")):
        done = torch.load(saved, weights_only=True)["global_step"]
        second = Diary()
        trainer(tmp_path, 13).fit(second, datamodule=module(), ckpt_path=saved)
        torch.testing.assert_close(second.seen, straight.seen[done:], rtol=0, atol=0)


def test_a_run_of_epochs_goes_on_after_the_last_one(tmp_path):
    """Lightning drops the state of loaders when a checkpoint ends an epoch of a run by epochs."""
    straight, first, second = Diary(), Diary(), Diary()
    trainer(tmp_path, -1, max_epochs=3).fit(straight, datamodule=module())
    stopped = trainer(tmp_path, -1, max_epochs=1)
    stopped.fit(first, datamodule=module())
    stopped.save_checkpoint(tmp_path / "one.ckpt")
    trainer(tmp_path, -1, max_epochs=3).fit(
        second, datamodule=module(), ckpt_path=tmp_path / "one.ckpt"
    )
    torch.testing.assert_close(first.seen + second.seen, straight.seen, rtol=0, atol=0)


def test_a_batch_in_flight_when_the_run_broke_comes_again(tmp_path):
    straight, broken, second = Diary(), Diary(break_at=7), Diary()
    trainer(tmp_path, 9).fit(straight, datamodule=module())
    interrupted = trainer(tmp_path, 9)
    with pytest.raises(SystemExit):  # Lightning's answer to Ctrl-C
        interrupted.fit(broken, datamodule=module())
    interrupted.save_checkpoint(tmp_path / "broken.ckpt")
    trainer(tmp_path, 9).fit(second, datamodule=module(), ckpt_path=tmp_path / "broken.ckpt")
    torch.testing.assert_close(broken.seen + second.seen, straight.seen, rtol=0, atol=0)


def test_a_resume_in_mid_epoch_refuses_another_batch_size():
    loader = module().train_dataloader()
    next(iter(loader))
    state = loader.place()
    with pytest.raises(UserError, match="batch_size = 4, and this run has 5: resume with 4"):
        module(batch_size=5).train_dataloader().go_to(state)
    ended = {**state, "epoch": 2, "batch": 0}
    other = module(batch_size=5).train_dataloader()
    other.go_to(ended)
    assert other.place()["epoch"] == 2


def test_iterating_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    list(module().train_dataloader())
    list(module().test_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_overfitting_sees_the_same_batches_each_epoch(tmp_path):
    diary = Diary()
    trainer(tmp_path, 6, overfit_batches=2).fit(diary, datamodule=module())
    torch.testing.assert_close(diary.seen[:2] * 3, diary.seen, rtol=0, atol=0)


worlds = {"batch_size": st.integers(1, 7), "world": st.integers(1, 5)}


@given(pictures=st.integers(0, 60), **worlds)
def test_evaluation_shows_every_picture_once(pictures, batch_size, world):
    parts = [evaluation_batches(pictures, batch_size, Part(rank, world)) for rank in range(world)]
    dealt = [index for part in parts for batch in part for index in batch]
    assert sorted(dealt) == list(range(pictures))
    alone = evaluation_batches(pictures, batch_size, Part())
    if len(alone) >= world:
        assert all(batch in alone for part in parts for batch in part)
    assert all(parts) or pictures < world, "a rank without a batch would wait for no one"


@given(pictures=st.integers(0, 60), drop_last=st.booleans(), epoch=st.integers(0, 3), **worlds)
def test_training_shares_every_picture_once(pictures, drop_last, epoch, batch_size, world):
    order = epoch_order(pictures, 0, epoch)
    parts = [
        training_batches(order, batch_size, Part(rank, world), drop_last) for rank in range(world)
    ]
    dealt = [index for part in parts for batch in part for index in batch]
    assert len({len(part) for part in parts}) == 1, "ranks wait for each other at every step"
    assert len(set(dealt)) == len(dealt)
    left_out = pictures - len(dealt)
    assert left_out < (batch_size * world if drop_last else world)
    rounds = zip(*parts, strict=True)
    together = [index for batches in rounds for batch in batches for index in batch]
    whole = pictures // (batch_size * world) * batch_size * world
    assert together[:whole] == order[:whole]


@given(seed=st.integers(0, 2**31), padding=st.integers(0, 7), data=st.data())
def test_flip_and_crop_take_the_mask_along(seed, padding, data):
    mask = torch.from_numpy(np.random.default_rng(seed).integers(0, 9, (8, 8)))
    sample = {"image": mask.float().expand(3, 8, 8), "mask": mask, "index": 0}
    top, left = data.draw(st.tuples(*[st.integers(0, 2 * padding)] * 2))
    moved = paired_flip(paired_crop(sample, padding, top, left))
    assert torch.equal(moved["image"], moved["mask"].float().expand(3, 8, 8))
    padded = np.pad(mask.numpy(), padding, mode="reflect")
    window = padded[top : top + 8, left : left + 8][:, ::-1]
    np.testing.assert_array_equal(moved["mask"], window)


def test_a_zoom_changes_picture_and_mask_alike():
    mask = torch.arange(64).view(8, 8)
    sample = {"image": mask.float().expand(3, 8, 8) / 64, "mask": mask, "index": 0}
    same = paired_zoom(sample, 8, 0, 0)
    assert all(torch.equal(same[key], sample[key]) for key in ("image", "mask"))
    twice = paired_zoom(sample, 4, 2, 3)
    window = mask[2:6, 3:7]
    assert torch.equal(twice["mask"], window.repeat_interleave(2, 0).repeat_interleave(2, 1))
    centres = twice["image"].unfold(1, 2, 2).unfold(2, 2, 2).mean((3, 4))[0, 1:3, 1:3] * 64
    torch.testing.assert_close(centres, window[1:3, 1:3].float())  # a plane stays one
    half = paired_zoom(sample, 16, -4, -4)["mask"]
    wide = torch.from_numpy(np.pad(mask.numpy(), 4, mode="reflect"))
    assert torch.equal(half, wide[::2, ::2])
    with pytest.raises(UserError, match=r"data.zoom=0.5"):
        module(zoom=0.5)


def test_zoomed_pictures_follow_from_seed_epoch_and_index():
    zoomed = [module(zoom=1.5, batch_size=4, flip=False).train_dataloader() for _ in range(2)]
    first, again = (next(iter(loader)) for loader in zoomed)
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["mask"], again["mask"])
    plain = next(iter(module(zoom=1.0, batch_size=4, flip=False).train_dataloader()))
    assert not torch.equal(first["image"], plain["image"])


def test_without_a_mask_the_border_is_black():
    sample = {"image": torch.ones(3, 4, 4), "index": 0, "label": 2}
    moved = paired_crop(sample, 1, 0, 2)["image"]
    expected = torch.ones(4, 4)
    expected[0], expected[:, -1] = -1, -1
    assert torch.equal(moved, expected.expand(3, 4, 4))


def test_augmentation_follows_from_seed_epoch_and_index_and_varies():
    loader = module(batch_size=22).train_dataloader()
    first, second = next(iter(loader)), next(iter(loader))
    again = next(iter(module(2, batch_size=22).train_dataloader()))
    assert torch.equal(first["image"], again["image"])
    assert set(first["index"].tolist()) == set(range(22))
    assert first["index"].tolist() != second["index"].tolist()
    place = {int(index): image for index, image in zip(first["index"], first["image"], strict=True)}
    changed = [
        not torch.equal(place[int(index)], image)
        for index, image in zip(second["index"], second["image"], strict=True)
    ]
    assert sum(changed) > 11
    other = next(iter(module(batch_size=22, seed=4).train_dataloader()))
    assert not torch.equal(other["index"], first["index"])


class Described(Numbered):
    """The same pictures, each with a class and attributes that say its number."""

    picture_classes = ("even", "odd")
    attributes = (
        Attribute("number", "number", "same"),
        Attribute("side", "number", "negated"),
        Attribute("small", "binary", "large"),
        Attribute("large", "binary", "small"),
    )

    def __getitem__(self, index: int) -> dict:
        values = torch.tensor([index, index + 1.0, index < 9, torch.nan])
        return super().__getitem__(index) | {"label": index % 2, "attributes": values}


def test_a_set_says_its_labels_in_plain_types():
    labels = [Numbered("test").label_kinds, Described("test").label_kinds]
    assert labels == [["mask"], ["mask", "label", "attributes"]]
    assert (Numbered("test").facts["picture_classes"], Numbered("test").facts["attributes"]) == (
        [],
        [],
    )
    facts = ImageDataModule(Described).facts
    assert facts["picture_classes"] == ["even", "odd"]
    assert facts["attributes"][1] == {"name": "side", "kind": "number", "mirrored": "negated"}
    assert (facts["dataset"], facts["labelled"], facts["num_classes"]) == ("numbered", True, 0)


@pytest.mark.parametrize("ranks", [1, 3])
def test_batches_carry_labels_and_a_mirror_changes_them_with_the_picture(ranks, monkeypatch):
    flipped, seen = 0, []
    for rank in range(ranks):
        data = ImageDataModule(Described, batch_size=2, flip=True, seed=3, drop_last=False)
        monkeypatch.setattr(data, "_part", lambda rank=rank: Part(rank, ranks))
        for batch in data.train_dataloader():
            assert (batch["label"].dtype, batch["attributes"].dtype) == (torch.int64, torch.float32)
            for row, index in enumerate(batch["index"].tolist()):
                own = Described("train")[index]
                turned = not torch.equal(batch["image"][row], own["image"])
                values = own["attributes"]
                expected = mirror_attributes(values, Described.attributes) if turned else values
                torch.testing.assert_close(batch["attributes"][row], expected, equal_nan=True)
                assert batch["label"][row] == own["label"]
                flipped += turned
                seen.append(index)
    assert len(seen) == len(set(seen)) >= 20
    assert 4 < flipped < 18


def test_pictures_whose_mirror_is_unknown_are_not_flipped():
    class Silent(Described):
        attributes = (*Described.attributes[:3], Attribute("large", "binary"))

    with pytest.raises(UserError, match=r"numbered does not say .* large in a mirror: data.flip=f"):
        ImageDataModule(Silent, flip=True).train_dataloader()
    assert len(ImageDataModule(Silent).train_dataloader()) == 1


def test_each_rank_of_a_trainer_gets_its_part(tmp_path):
    seen = []
    for rank in range(3):
        data = module(batch_size=2, flip=False, crop_padding=0)
        data.trainer = type("Ranked", (), {"global_rank": rank, "world_size": 3})()
        seen += [batch["index"].tolist() for batch in data.test_dataloader()]
    assert sorted(seen) == [[0, 1], [2, 3], [4, 5], [6]]


def test_loaders_and_facts():
    data = module(predict_split=["train", "test"], batch_size=5)
    assert data.val_dataloader() == []
    assert [len(loader) for loader in data.predict_dataloader()] == [5, 2]
    assert data.facts["dataset"] == "numbered"
    assert data.facts["image_size"] == 8
    batch = next(iter(data.test_dataloader()))
    assert {key: (value.dtype, tuple(value.shape)) for key, value in batch.items()} == {
        "image": (torch.float32, (5, 3, 8, 8)),
        "mask": (torch.int64, (5, 8, 8)),
        "index": (torch.int64, (5,)),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 23}, "22 training pictures, fewer than one batch of 23"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"crop_padding": 8}, "data.crop_padding=8 must be smaller"),
        ({"seed": -1}, "data.seed=-1"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as refusal:
        module(**options).train_dataloader()
    assert "\n" not in str(refusal.value)
