"""Directions in codes: what a linear code holds is found, in few entries, and read back."""

import re
from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from diffdict.backbones.autoencoders.code_backbone import CodeBackbone
from diffdict.data.attributes import Attribute
from diffdict.data.base import Pictures
from diffdict.errors import UserError
from diffdict.features.code_batches import CodeBatches
from diffdict.metrics.attributes.attribute_precision import AttributePrecision
from diffdict.results.inputs.directions import open_directions
from diffdict.tasks.direction import Direction
from tests.tiny_pdae import tiny_pdae

FACTS = ("code", "code_mean", "code_std", "attributes", "attribute_means", "dataset")
FACTS += ("backbone", "backbone_sha256")


class Lamps(Pictures):
    """Eight patches of light; a picture has an attribute where its patch is bright."""

    name, image_size = "lamps", 16
    attributes = (
        Attribute("third", "binary", "same"),
        Attribute("sum", "number", "same"),
        Attribute("never", "binary", "same"),
        Attribute("fifth", "binary", "same"),
    )

    def __init__(self, split, pictures=64):
        self.split, self.pictures = split, pictures
        self.fingerprint = f"lamps {split} {pictures}"

    def __len__(self):
        return self.pictures

    def __getitem__(self, index):
        seed = index + 1000 * (self.split == "test")
        light = torch.rand(8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        known = [float(light[2] > 0), float(light.sum()), 0.0, float(light[4] > 0)]
        if index % 7 == 0:
            known[0] = torch.nan
        image = light.view(1, 8, 1).repeat_interleave(2, 1).expand(3, 16, 16)
        return {"image": image, "attributes": torch.tensor(known), "index": index}


class Patches8(CodeBackbone):
    """A code that is the light of the eight patches."""

    def __init__(self):
        super().__init__()
        self.name, self.image_size = "patches8", 16
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.name_blocks(8, None)

    def codes(self, images):
        return images[:, 0, ::2, 0] * self.weight


def data(dataset=Lamps, backbone=None, **options):
    asked = {"source": "live", "dtype": "fp32", "timestep": None, "block": "code"}
    asked |= {"batch_size": 16, "val_fraction": 0.25} | options
    return CodeBatches(dataset=dataset, backbone=backbone or Patches8(), **asked)


def task(known, **options):
    facts = {key: value for key, value in known.facts.items() if key in FACTS}
    return Direction(partial(torch.optim.Adam, lr=5e-2), **facts | options)


def learn(folder, epochs=20, resume=None, **options):
    known = data()
    keep = pl.callbacks.ModelCheckpoint(folder, save_last=True, every_n_epochs=1)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[keep],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    model = task(known, **options)
    trainer.fit(model, known, ckpt_path=resume, weights_only=True)
    trainer.test(model, known, verbose=False)
    return model, folder / "last.ckpt"


def test_the_direction_of_an_attribute_is_found(tmp_path):
    model, ckpt = learn(tmp_path, epochs=60, attribute="third")
    assert model.tables()["attributes"][0]["average_precision"] > 0.93
    read = open_directions(ckpt)
    assert read.names == ["third"]
    unit = read.weight[0] / read.weight[0].norm()
    assert unit[2] > 0.8
    codes = data().codes("test")
    scores = read.scores(codes.codes)
    known = ~codes.attributes[:, 0].isnan()
    right = (scores[known, 0] > 0) == (codes.attributes[known, 0] > 0)
    assert right.float().mean() > 0.85
    read.check(Patches8(), 8, Patches8().sha256)
    with pytest.raises(UserError, match="learned on patches8 with weights"):
        read.check(tiny_pdae(), 8, "0" * 64)
    with pytest.raises(UserError, match="of 8 entries do not fit pdae, whose codes have 9"):
        read.check(tiny_pdae(), 9, "0" * 64)


@pytest.mark.parametrize("draw", ["likeliest", "published"])
def test_a_mask_keeps_the_entries_that_count(tmp_path, draw):
    model, _ = learn(tmp_path, epochs=40, dims=2, draw=draw)
    assert model.names == ["third", "fifth"]
    rows = model.tables()["attributes"]
    kept = (model.mask.scores > 0.5).nonzero().flatten().tolist()
    assert kept == [2, 4]
    if draw == "likeliest":
        assert [row["entries"] for row in rows] == [2, 2]
        assert model.best_weight.abs().sum(0).nonzero().flatten().tolist() == [2, 4]
    assert min(row["average_precision"] for row in rows) > 0.9


def test_a_resumed_run_is_a_straight_one(tmp_path):
    straight, _ = learn(tmp_path / "a", epochs=4, dims=3)
    first = learn_until(tmp_path / "b", 2, epochs=4, dims=3)
    resumed, _ = learn(tmp_path / "c", epochs=4, resume=str(first), dims=3)
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def learn_until(folder, stop, **options):
    """The checkpoint that a run of `epochs` has after `stop` of them."""

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch + 1 >= stop

    known, epochs = data(), options.pop("epochs")
    keep = pl.callbacks.ModelCheckpoint(folder, save_last=True, every_n_epochs=1)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[keep, Stop()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(task(known, **options), known)
    return folder / "last.ckpt"


def test_a_released_classifier_is_read(tmp_path):
    weight, bias = torch.randn(40, 8), torch.randn(40)
    torch.save({"ema_classifier": {"weight": weight, "bias": bias}}, tmp_path / "c.pt")
    torch.save({"mean": torch.ones(8), "std": 2 * torch.ones(8)}, tmp_path / "m.pt")
    read = open_directions(tmp_path / "c.pt", str(tmp_path / "m.pt"))
    assert read.names[15] == "Eyeglasses"
    codes = torch.randn(3, 8)
    torch.testing.assert_close(read.scores(codes), (codes - 1) / 2 @ weight.T + bias)
    with pytest.raises(UserError, match="name the file with their mean and std"):
        open_directions(tmp_path / "c.pt")
    with pytest.raises(UserError, match="No direction is of 'Hat'"):
        read.chosen(["Hat"])


def test_what_is_unknown_counts_for_nothing():
    metric = AttributePrecision()
    scores = torch.tensor([[0.9], [0.8], [0.1], [0.5]])
    metric.update(scores, torch.tensor([[1.0], [torch.nan], [0.0], [1.0]]))
    (figure,) = metric.compute()
    assert figure == (1.0, 3, pytest.approx(2 / 3))
    known = data()
    codes, _, attributes = known.codes("train")
    told = ~attributes[:, 0].isnan()
    assert 0 < told.sum() < len(told)
    model = task(known, attribute="third")
    torch.testing.assert_close(
        model.loss(codes, attributes), model.loss(codes[told], attributes[told])
    )


class Plain(Lamps):
    attributes = ()

    def __getitem__(self, index):
        return {"image": super().__getitem__(index)["image"], "index": index}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attribute": "hat"}, "model.attribute=hat is none of lamps: there are third, sum"),
        ({"attribute": "sum"}, "sum of lamps are numbers"),
        ({"attribute": "never"}, "all agree about never"),
        ({"dims": 0}, "A mask keeps 1 to 8 entries, got 0"),
        ({"dims": 9}, "A mask keeps 1 to 8 entries, got 9: model.dims=null takes all"),
        ({"draw": "any"}, "model.draw is likeliest or published, got 'any'"),
    ],
)
def test_mistakes_are_named(options, said):
    with pytest.raises(UserError, match=re.escape(said)):
        task(data(), **options)


def test_pictures_without_attributes():
    with pytest.raises(UserError, match="learns attributes of whole pictures"):
        task(data(Plain))
