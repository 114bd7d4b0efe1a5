"""task=deeplab: what is learned, chosen, tested and resumed; and what is refused."""

import math
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from diffdict.data.base import Pictures
from diffdict.data.images import ImageDataModule
from diffdict.errors import UserError
from diffdict.reports.grid import Grid
from diffdict.tasks.deeplab import DeepLab

ADAM = partial(torch.optim.Adam, lr=1e-3)
SMALL = {"depth": 50, "width": 1 / 16}


class Halves(Pictures):
    """Pictures split by a line: bright is class 1; the last row is ignored."""

    name, class_names, num_classes, palette = "halves", ["dark", "bright"], 2, []
    ignore_label, labelled, image_size = 255, True, 16

    def __init__(self, split: str, pictures: int = 8) -> None:
        self.seed, self.pictures = len(split), pictures

    def __len__(self) -> int:
        return self.pictures

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(self.seed * 100 + index)
        column = int(torch.randint(4, 12, (), generator=generator))
        mask = torch.zeros(16, 16, dtype=torch.int64)
        mask[:, column:] = 1
        image = mask - 0.5 + 0.2 * torch.randn(3, 16, 16, generator=generator)
        mask[-1] = 255
        return {"image": image, "mask": mask, "index": index}


class States(pl.Callback):
    """The network and its figure at every validation."""

    def __init__(self) -> None:
        self.seen = []

    def on_validation_end(self, trainer, pl_module):
        state = {key: value.clone() for key, value in pl_module.net.state_dict().items()}
        self.seen.append((float(trainer.callback_metrics["val/miou"]), state))


def task(optimizer=ADAM, **options):
    torch.manual_seed(0)
    facts = {"num_classes": 2, "class_names": ["dark", "bright"], "ignore_label": 255}
    return DeepLab(optimizer, **{**SMALL, **facts, **options})


def train(module, *, dataset=Halves, batch_size=4, callbacks=(), ckpt_path=None, **options):
    keep = options.pop("enable_checkpointing", False)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=keep,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks],
        num_sanity_val_steps=0,
        **{"log_every_n_steps": 1, **options},
    )
    data = ImageDataModule(dataset, batch_size=batch_size)
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer, data


def test_it_learns_chooses_its_best_epoch_and_tests_that_one():
    module, states = task(), States()
    trainer, data = train(module, callbacks=[states], max_epochs=6)
    figures = [figure for figure, _ in states.seen]
    best = figures.index(max(figures))
    assert max(figures) > 0.7
    assert int(module.best_step) == 2 * (best + 1)
    assert float(module.best) == pytest.approx(max(figures))
    kept = module.chosen.state_dict()
    assert all(torch.equal(kept[key], value) for key, value in states.seen[best][1].items())
    with torch.no_grad():
        for parameter in module.net.parameters():
            parameter.zero_()
    tested = trainer.test(module, data, verbose=False)[0]
    assert tested["test/miou"] > 0.7, "what is tested is what was chosen"
    rows = module.tables()["classes"]
    assert [row["class"] for row in rows] == ["dark", "bright"]
    assert sum(row["iou"] for row in rows) / 2 == pytest.approx(tested["test/miou"])
    assert sum(row["pixels"] for row in rows) == 8 * 16 * 15


def test_without_validation_the_last_epoch_is_chosen():
    module = task()
    pictures = {"train": 8, "val": 0, "test": 4}
    train(module, dataset=lambda split: Halves(split, pictures[split]), max_epochs=2)
    assert int(module.best_step) == 4
    ours, theirs = module.chosen.state_dict(), module.net.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_only_every_nth_step_is_logged_and_with_0_none(logging, logged_steps):
    every, expected = logging
    module = task()
    steps = logged_steps(module, "train/lr")
    train(module, max_steps=7, log_every_n_steps=every, limit_val_batches=0)
    assert steps == expected


def test_resumed_is_straight_dropout_and_all(tmp_path):
    straight, broken, resumed = (task(auxiliary=True) for _ in range(3))
    train(straight, max_steps=5)
    trainer, _ = train(broken, max_steps=3, enable_checkpointing=True, default_root_dir=tmp_path)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    torch.manual_seed(99)
    train(resumed, max_steps=5, ckpt_path=tmp_path / "kept.ckpt")
    ours, theirs = resumed.state_dict(), straight.state_dict()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def test_the_loss_is_the_mean_over_labelled_pixels():
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    every = F.cross_entropy(logits, labels, reduction="none")
    ignoring = task(num_classes=3, ignore_label=0)
    torch.testing.assert_close(ignoring._loss(logits, labels), every[labels != 0].mean())
    assert ignoring._loss(logits, torch.zeros_like(labels)) == 0, (
        "nothing labelled, nothing learned"
    )
    learning = task(num_classes=3, ignore_label=0, learn_ignored=True)
    torch.testing.assert_close(learning._loss(logits, labels), every.mean())
    beyond = task(num_classes=3, ignore_label=255, learn_ignored=True)
    labels[0] = 255
    torch.testing.assert_close(beyond._loss(logits, labels), every[1].mean())


def test_pictures_reach_the_network_with_imagenets_mean_and_deviation():
    white = task()._normal(torch.ones(1, 3, 2, 2))[0, :, 0, 0]
    torch.testing.assert_close(white, torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))


def test_finished_weights_are_measured_as_they_are(tmp_path):
    made = task(auxiliary=True)
    state = made.net.state_dict()
    torch.save(state, tmp_path / "with_head.pth")
    plain = {key: value for key, value in state.items() if not key.startswith("aux_")}
    torch.save({"model_state_dict": plain}, tmp_path / "published.pth")
    for file in ("with_head.pth", "published.pth"):
        read = task(checkpoint=str(tmp_path / file))
        kept = read.chosen.state_dict()
        assert kept.keys() == plain.keys()
        assert all(torch.equal(kept[key], plain[key]) for key in plain)
    with pytest.raises(UserError, match=r"does not fit DeepLabV3: .*classifier\.4\.weight"):
        task(num_classes=5, checkpoint=str(tmp_path / "published.pth"))


def test_the_grid_shows_pictures_masks_and_predictions(tmp_path):
    module, grid = task(), Grid(str(tmp_path), pictures=3)
    trainer, data = train(module, callbacks=[grid], max_epochs=1)
    trainer.test(module, data, verbose=False)
    assert set(grid.rows[0]) == {"image", "mask", "prediction"}
    assert (tmp_path / "grid.png").is_file()


def test_one_picture_is_looked_at_without_a_backbone(tmp_path):
    module, picture = task().eval(), Halves("test")[0]["image"]
    rows = module.look(picture, tmp_path)
    labels = torch.from_numpy(np.load(tmp_path / "labels.npy"))
    assert torch.equal(labels, module.segment(module.chosen, picture[None])[0])
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert all(0 <= row["uncertainty"] <= math.log(2) + 1e-6 for row in rows)
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.parametrize(
    ("options", "batches", "message"),
    [
        ({"labelled": False}, 4, "learns from masks, and these pictures have none"),
        ({"protocol": "mean"}, 4, "model.protocol is published or standard"),
        ({"decay": "step"}, 4, "model.decay is none, linear, cosine, poly, got 'step'"),
        ({"optimizer": partial(torch.optim.Adam, lr=-1)}, 4, "model.optimizer.lr is a number"),
        ({"optimizer": partial(torch.optim.SGD, lr=1e30)}, 4, r"no number at step .*lr=1e\+29"),
        ({}, 1, "a batch has two or more: raise data.batch_size"),
    ],
)
def test_mistakes_are_named(options, batches, message):
    pictures = {"train": 8 if batches > 1 else 1, "val": 2, "test": 2}

    def begin():
        dataset = lambda split: Halves(split, pictures[split])  # noqa: E731
        train(task(**options), dataset=dataset, batch_size=batches, max_epochs=3)

    with pytest.raises(UserError, match=message) as refusal:
        begin()
    assert "\n" not in str(refusal.value)
