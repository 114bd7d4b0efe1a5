"""The segmenter's training: ten members at once as ten in a row, stopped, resumed, measured."""

import warnings
from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from diffdict.backbones.base import Backbone
from diffdict.checkpoints import check_resumable
from diffdict.classifiers.pixel_ensemble import Ensemble
from diffdict.data import base
from diffdict.errors import UserError
from diffdict.features.pixels import PixelDataModule
from diffdict.metrics.segmentation import Segmentation
from diffdict.seeds import permutation
from diffdict.tasks.pixel_mlp import PixelMLP

SIDE, MEMBERS, CLASSES, IGNORED = 10, 4, 4, 3
SHORT = {"patience": 3, "patience_from": 1, "members": MEMBERS}
quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


class Pictures(base.Pictures):
    """Soft spots of three classes, under noise; a few pixels are of no class."""

    name, image_size, num_classes, labelled = "spots", SIDE, CLASSES, True
    class_names, palette, ignore_label = ["a", "b", "c", "none"], [(0, 0, 0)] * CLASSES, IGNORED

    def __init__(self, split="train", count=4):
        self.split, self.count = split, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index + 1000 * (self.split == "test"))
        image = F.interpolate(torch.rand(1, 3, 4, 4, generator=generator), (SIDE, SIDE))[0] * 2 - 1
        mask = image.argmax(0)
        mask[torch.rand(SIDE, SIDE, generator=generator) < 0.05] = IGNORED
        noise = 0.3 * torch.randn(3, SIDE, SIDE, generator=generator)
        return {"image": (image + noise).clamp(-1, 1), "mask": mask, "index": index}


class Net(Backbone):
    """Two blocks at two resolutions."""

    name, image_size = "net", SIDE

    def __init__(self):
        super().__init__()
        self.shapes = {1: (3, 5, 5), 2: (3, SIDE, SIDE)}

    def features(self, images, timestep=None, blocks=None, noise=None):
        maps = {1: F.avg_pool2d(images, 2), 2: images}
        return {block: maps[block] for block in self.chosen(blocks)}


def spots(made=PixelDataModule, **options):
    asked = {"timestep": None, "block": [1, 2], "source": "live", "dtype": "fp32"}
    asked |= {"members": MEMBERS, "batch_size": 16, "smallest_annotation": 0, "alike": True}
    return made(dataset=Pictures, backbone=Net, **{**asked, **options})


def task(lr=3e-2, optimizer=torch.optim.Adam, **options):
    facts = {"d_in": 6, "num_classes": CLASSES, "ignore_label": IGNORED}
    facts["class_names"] = Pictures.class_names
    return PixelMLP(partial(optimizer, lr=lr), **facts, **{**SHORT, **options})


def fit(folder, one, data=None, resume=None, every=None, **options):
    keep = pl.callbacks.ModelCheckpoint(
        folder, "{step}", every_n_train_steps=every, save_last=True, save_top_k=-1
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **{"callbacks": [keep], "max_epochs": 40, **quiet, **options},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(one, data or spots(), ckpt_path=resume, weights_only=True)
    return trainer


def member(one, i):
    """The state of member i, wherever it stands."""
    return one.net.member(one.number.tolist().index(i))


class ExactSpots(PixelDataModule):
    """Their features in double precision: rounding hides no mistake."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch._replace(features=batch.features.double())


def alone(i, weight=None, epochs=40, patience=3, patience_from=1, dtype=torch.float32):
    """Member i as the published trainer makes it, with its own start and order; and its steps."""
    data = spots()
    data.setup("fit")
    loader = data.train_dataloader()
    net = nn.Sequential(nn.Linear(6, 128), nn.ReLU(), nn.BatchNorm1d(128))
    net.extend([nn.Linear(128, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, CLASSES)])
    start = Ensemble(i + 1, 6, CLASSES).member(i)
    net.load_state_dict({key.removeprefix("layers."): x for key, x in start.items()})
    optimizer = torch.optim.Adam(net.to(dtype).parameters(), lr=3e-2)
    best, waited, steps = 1e9, 0, 0
    for epoch in range(epochs):
        order = permutation(len(loader.kept), 0, epoch, i)
        for chosen in order.split(16)[: len(loader)]:
            x, y = loader.read(loader.kept[chosen])
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x.to(dtype)).float(), y, weight)
            loss.backward()
            optimizer.step()
            steps += 1
            if epoch >= patience_from:
                waited = 0 if loss.item() < best else waited + 1
                best = min(best, loss.item())
                if waited > patience:
                    return net, steps
    return net, steps


# ---------------------------------------------------------------- learning


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A training in which every member has stopped."""
    folder = tmp_path_factory.mktemp("learned")
    one = task()
    trainer = fit(folder, one)
    return SimpleNamespace(folder=folder, one=one, trainer=trainer)


def test_ten_at_once_are_ten_in_a_row(tmp_path):
    """Weights, running statistics and steps of each, through all their stops."""
    one = task(members=6, patience=6).double()
    trainer = fit(tmp_path, one, spots(ExactSpots, members=6))
    assert one.running == 0
    members = [alone(i, patience=6, dtype=torch.float64) for i in range(6)]
    for i, (net, steps) in enumerate(members):
        ours = member(one, i)
        for key, x in net.state_dict().items():
            torch.testing.assert_close(ours[f"layers.{key}"], x, atol=1e-9, rtol=1e-9)
        assert ours["layers.2.num_batches_tracked"] == steps
    stops = [steps for _, steps in members]
    assert len(set(stops)) > 3
    assert stops != sorted(stops)  # so that members change places
    assert trainer.global_step == max(stops)
    assert [row["steps"] for row in one.tables()["members"]] == stops


def test_a_stopped_member_is_touched_no_more(tmp_path):
    """Its state at the moment it stops is its state at the end."""
    one, then = task(), {}

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            for row in range(pl_module.running, MEMBERS):
                then.setdefault(int(pl_module.number[row]), pl_module.net.member(row))

    fit(tmp_path, one, callbacks=[Watch()])
    assert sorted(then) == list(range(MEMBERS))
    for i, state in then.items():
        assert all(torch.equal(x, state[key]) for key, x in member(one, i).items())


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_other_optimizers_stop_members_too(tmp_path, optimizer):
    one = task(optimizer=optimizer)
    trainer = fit(tmp_path, one)
    assert one.running == 0
    assert trainer.global_step == one.net.steps.max()


def test_class_weights_are_those_of_cross_entropy(tmp_path):
    one, data = task(class_weights="root", patience=None), spots()
    fit(tmp_path, one, data, max_epochs=2)
    pixels = data.class_pixels.float()
    assert pixels[IGNORED] == 0
    weight = pixels.clamp(min=1).rsqrt()
    net, _ = alone(0, weight * (pixels > 0), epochs=2, patience_from=9)
    for key, x in net.state_dict().items():
        torch.testing.assert_close(member(one, 0)[f"layers.{key}"], x, atol=1e-4, rtol=1e-3)
    assert one._weights[:3].mean() == pytest.approx(1)


def test_only_every_nth_step_is_logged_and_with_0_none(tmp_path, logging, logged_steps):
    every, expected = logging
    one = task()
    steps = logged_steps(one, "train/lr")
    fit(tmp_path, one, log_every_n_steps=every, max_steps=7)
    assert steps == expected


def test_half_precision_stays_near(tmp_path):
    exact, rough = (task(1e-2, torch.optim.SGD, patience=None) for _ in range(2))
    fit(tmp_path / "a", exact, max_epochs=1)
    fit(tmp_path / "b", rough, max_epochs=1, precision="bf16-mixed")
    ours, theirs = rough.net.state_dict(), exact.net.state_dict()
    for key in ("layers.0.weight", "layers.6.weight"):
        assert ours[key].dtype == torch.float32
        assert 0 < (ours[key] - theirs[key]).abs().max() < 0.05


# ---------------------------------------------------------------- resuming


@pytest.mark.parametrize("steps", [3, 33])
def test_resumed_is_straight(learned, tmp_path, steps):
    """From the middle of an epoch; at 33 steps some members have stopped, others not."""
    first = task()
    fit(tmp_path / "a", first, max_steps=steps)
    if steps == 33:
        assert 0 < first.running < MEMBERS
    second = task()
    fit(tmp_path / "b", second, resume=tmp_path / "a/last.ckpt")
    assert second.number.tolist() == learned.one.number.tolist()
    for key, x in learned.one.state_dict().items():
        if not key.startswith("metrics"):
            assert torch.equal(second.state_dict()[key], x), key


def test_what_has_ended_does_not_go_on(learned, tmp_path):
    again = task()
    trainer = fit(tmp_path, again, resume=learned.folder / "last.ckpt")
    assert trainer.global_step == learned.trainer.global_step
    assert all(
        torch.equal(again.net.state_dict()[k], x) for k, x in learned.one.net.state_dict().items()
    )


# ---------------------------------------------------------------- figures


def test_figures_are_those_of_the_predictions(learned):
    one, data = deepcopy(learned.one), spots()
    trainer = pl.Trainer(accelerator="cpu", **quiet)
    trainer.test(one, data, verbose=False)
    votes = {name: Segmentation(CLASSES, IGNORED) for name in ("majority", "soft")}
    for picture in data.labelled("test"):
        found = one.predict(picture.maps)
        for name, metric in votes.items():
            metric.update(getattr(found, name), picture.mask)
    figures = {key: float(value) for key, value in trainer.callback_metrics.items()}
    majority, soft = (votes[name].compute() for name in ("majority", "soft"))
    for name, value in {
        "miou": majority.miou(),
        "miou_majority": majority.miou(),
        "miou_soft": soft.miou(),
        "miou_published": majority.miou(),
        "miou_standard": majority.miou("standard"),
        "accuracy": majority.accuracy,
    }.items():
        assert figures[f"test/{name}"] == pytest.approx(value, abs=1e-6)
    assert 0.5 < figures["test/miou"] < figures["test/miou_standard"] < 1
    assert figures["test/uncertainty"] > 0
    rows = one.tables()["classes"]
    assert [row["class"] for row in rows] == Pictures.class_names
    assert [row["iou"] for row in rows] == pytest.approx(majority.iou().tolist(), nan_ok=True)
    assert sum(row["pixels"] for row in rows) == int(majority.pixels.sum())
    one.vote, one.protocol = "soft", "standard"
    trainer.test(one, data, verbose=False)
    assert float(trainer.callback_metrics["test/miou"]) == pytest.approx(soft.miou("standard"))


def test_a_training_picture_may_be_held_out(tmp_path):
    one = task(patience=None)
    trainer = fit(tmp_path, one, spots(val_pictures=1), max_epochs=2)
    assert 0 < float(trainer.callback_metrics["val/miou"]) < 1


# ---------------------------------------------------------------- published files


def test_members_go_out_and_come_back_as_published_files(learned, tmp_path):
    one = learned.one
    for row, number in enumerate(one.number.tolist()):
        torch.save(one.classifier(row), tmp_path / f"model_{number}.pth")
    kept = torch.load(tmp_path / "model_0.pth", weights_only=True)["model_state_dict"]
    assert next(iter(kept)) == "module.layers.0.weight"
    back = task(classifiers=str(tmp_path), members=MEMBERS)
    for i in range(MEMBERS):
        assert all(torch.equal(x, member(one, i)[k]) for k, x in back.net.member(i).items())
    two = task(classifiers=[str(tmp_path / f"model_{i}.pth") for i in (3, 1)])
    assert torch.equal(two.net.member(0)["layers.6.bias"], member(one, 3)["layers.6.bias"])
    first = task(classifiers=str(tmp_path), members=2)  # as many as asked for, by number
    assert first.net.members == 2
    assert torch.equal(first.net.member(1)["layers.6.bias"], member(one, 1)["layers.6.bias"])
    with pytest.raises(UserError, match=f"holds {MEMBERS}, model.members=99 asks for more"):
        task(classifiers=str(tmp_path), members=99)
    trainer = fit(tmp_path / "run", back)
    assert trainer.global_step == 0
    again = task(members=MEMBERS)
    check_resumable(tmp_path / "run/last.ckpt", again)


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"members": 0}, r"model\.members must be at least 1, got 0"),
        ({"patience": 0}, r"model\.patience counts batches"),
        ({"vote": "loud"}, r"model\.vote is majority, soft, got 'loud'"),
        ({"class_weights": "own"}, r"model\.class_weights is none, root, inverse, got 'own'"),
        ({"protocol": "own"}, r"model\.protocol is published or standard, got 'own'"),
        ({"hidden": []}, r"model\.hidden holds widths of at least one layer"),
        ({"decay": "sudden"}, r"model\.decay is none, linear, cosine, poly, got 'sudden'"),
        ({"classifiers": "/nowhere"}, r"model\.classifiers=/nowhere holds no model_0\.pth"),
    ],
)
def test_wrong_settings_are_said_at_once(options, said):
    with pytest.raises(UserError, match=said):
        task(**options)


@pytest.mark.parametrize(
    ("trainer", "model", "said"),
    [
        ({"precision": "16-true"}, {}, r"trainer\.precision=16-true does not serve here"),
        ({"gradient_clip_val": 1.0}, {}, r"gradient_clip_val would clip all their gradients"),
        ({"accumulate_grad_batches": 2}, {}, r"raise data\.batch_size, not trainer\.accumulate"),
        ({}, {"lr": -1.0}, r"model\.optimizer\.lr is a number from 0 on, got -1"),
        ({}, {"lr": 1e30, "patience": None}, r"no number.*try model\.optimizer\.lr=1e\+29"),
    ],
)
def test_a_training_that_cannot_be_is_refused(tmp_path, trainer, model, said):
    with pytest.raises(UserError, match=said):
        fit(tmp_path, task(**model), log_every_n_steps=1, **trainer)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"members": 3}, r"not for these features: members 4 there and 3 here"),
        ({"hidden": [8]}, r"hidden \[128, 32\] there and \[8\] here"),
    ],
)
def test_another_ensemble_is_refused(learned, options, said):
    with pytest.raises(UserError, match=said):
        check_resumable(learned.folder / "last.ckpt", task(**options))


def test_features_of_another_width_are_refused(learned):
    wide = PixelMLP(partial(torch.optim.Adam), 9, CLASSES, members=MEMBERS)
    with pytest.raises(UserError, match=r"d_in 6 there and 9 here.*Give the dataset=, backbone="):
        check_resumable(learned.folder / "last.ckpt", wide)
