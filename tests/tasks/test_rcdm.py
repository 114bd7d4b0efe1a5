"""task=rcdm: folded weights, exact resume, vectors stored and live, what a vector is worth."""

import copy
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from safetensors import safe_open

from diffdict.backbones.base import Backbone
from diffdict.backbones.denoiser import Given
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.pixels import Pixels
from diffdict.backbones.rcdm import RCDM
from diffdict.checkpoints import check_resumable
from diffdict.data.toy_faces import ToyFaces
from diffdict.diffusion.objectives import Objective
from diffdict.errors import UserError
from diffdict.features.extraction.pictures import ExtractionPictures
from diffdict.features.extraction.writer import FeatureWriter
from diffdict.features.noise import Noise
from diffdict.reports.samples.source_grid import SourceGrid
from diffdict.representations.base import Representation
from diffdict.representations.pooled import Pooled
from diffdict.representations.vector_images import VectorImages
from diffdict.results.weights import KeepWeights
from diffdict.tasks.features import Features
from diffdict.tasks.rcdm import Rcdm

FLAGS = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,1",
    "attention_resolutions": "8",
    "num_head_channels": 16,
    "use_scale_shift_norm": True,
    "learn_sigma": True,
}
FACES = partial(ToyFaces, image_size=16, train_pictures=24, val_pictures=4, test_pictures=6)
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
}


def look(size=None) -> Pooled:
    return Pooled(Pixels(size or 16), None, "pixels", grid=2, image_size=size, name="cells")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Vectors of all splits, and of their mirror images."""
    folder = tmp_path_factory.mktemp("features")
    data = ExtractionPictures(FACES, split=["train", "val", "test"])
    task = Features(look(), None, ["vector", "mirrored"], Noise())
    writer = FeatureWriter(folder, "fp32")
    trainer = pl.Trainer(**QUIET, callbacks=[writer], default_root_dir=folder)
    trainer.predict(task, data)
    return folder


def pictures(root, representation=None, **changes) -> VectorImages:
    asked = {"batch_size": 4, "flip": True, "root": root, **changes}
    return VectorImages(FACES, representation or look(), **asked)


def model(data, seed=0, net=None, **options) -> Rcdm:
    torch.manual_seed(seed)
    facts = data.facts
    return Rcdm(
        net or RCDM(**FLAGS),
        facts["vector_width"],
        facts["representation"],
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        objective=Objective(),
        **{"ema_decay": 0.9, "drop": 0.3, "hide": 0.2, **options},
    )


def fit(folder, steps, data, task, resume=None, every=100, callbacks=(), **options):
    losses = []

    class Kept(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(outputs["loss"].item())

    keep = pl.callbacks.ModelCheckpoint(
        folder, filename="{step}", every_n_train_steps=every, save_top_k=-1
    )
    options = {**QUIET, "limit_val_batches": 0, "log_every_n_steps": 1, **options}
    trainer = pl.Trainer(
        max_steps=steps, callbacks=[Kept(), keep, *callbacks], default_root_dir=folder, **options
    )
    trainer.fit(task, data, ckpt_path=resume, weights_only=True)
    return losses


@pytest.fixture(scope="module")
def straight(tmp_path_factory, root):
    """11 steps of epochs that are 6 long, without a break."""
    folder, data = tmp_path_factory.mktemp("straight"), pictures(root)
    task = model(data)
    losses = fit(folder, 11, data, task, every=11)
    return task, losses, folder / "step=11.ckpt"


def test_a_resumed_run_is_the_straight_run(tmp_path, root, straight):
    whole, losses, _ = straight
    data = pictures(root)
    fit(tmp_path / "broken", 8, data, model(data), every=8)
    data, resumed = pictures(root), None
    resumed = model(data, seed=1)
    rest = fit(tmp_path / "on", 11, data, resumed, resume=tmp_path / "broken" / "step=8.ckpt")
    assert rest == losses[8:]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_vectors_made_beside_are_the_stored_ones(tmp_path, root, straight):
    whole, losses, _ = straight
    data = pictures(root, vectors="live")
    task = model(data)
    assert fit(tmp_path, 11, data, task) == pytest.approx(losses, abs=1e-5)
    torch.testing.assert_close(task.vector_mean, whole.vector_mean)
    torch.testing.assert_close(task.vector_scale, whole.vector_scale)


class Normed(Backbone):
    """A network whose batch norm would move if it learned."""

    def __init__(self):
        super().__init__()
        self.name, self.image_size, self.shapes = "normed", 16, {"map": (4, 16, 16)}
        self.first, self.norm = torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)

    def features(self, images, timestep=None, blocks=None, noise=None):
        return {"map": self.norm(self.first(images))}


def test_an_encoder_beside_the_training_stays_as_it_was(tmp_path, root):
    told = Pooled(Normed(), None, "map", name="normed")
    before = {key: value.clone() for key, value in told.net.state_dict().items()}
    data = pictures(root, told, vectors="live")
    task = model(data)
    fit(tmp_path, 3, data, task, every=3)
    for key, value in told.net.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not told.net.norm.training
    (group,) = task.configure_optimizers()["optimizer"].param_groups
    learned = {id(parameter) for parameter in group["params"]}
    assert learned.isdisjoint(map(id, told.net.parameters()))
    content = torch.load(tmp_path / "step=3.ckpt", weights_only=True)
    assert not [key for key in content["state_dict"] if "norm.running" in key]


@torch.no_grad()
def test_a_checkpoint_is_a_backbone_of_raw_vectors(root, straight):
    task, _, path = straight
    net, data = RCDM(**FLAGS, checkpoint=str(path)).eval(), pictures(root)
    assert net.condition.width == 20
    vector = data.vectors_of("test", [0, 1, 2])
    x, t = torch.randn(3, 3, 16, 16), torch.tensor([10, 500, 999])
    learned = task.ema(x, t, Given(vector=task.standardised(vector)))
    torch.testing.assert_close(net(x, t, Given(vector=vector)), learned, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(net(x, t), task.ema(x, t))
    exported = task.exported()
    torch.testing.assert_close(exported.net(x, t, Given(vector=vector)), learned)
    assert exported.facts["representation_name"] == "cells"
    again = model(data, net=net)
    again.trainer = pl.Trainer(**QUIET)
    again.trainer.datamodule = data
    again.setup("fit")
    told = Given(vector=again.standardised(vector))
    torch.testing.assert_close(again.net(x, t, told), learned, atol=1e-4, rtol=1e-4)


def test_weights_say_their_representation(tmp_path, root):
    data = pictures(root)
    keep = KeepWeights("told", about="a test")
    sheets = SourceGrid(2, pictures=4, steps=2, each=2)
    fit(
        *(tmp_path, 2, data, model(data)),
        callbacks=[keep, sheets],
        limit_val_batches=1.0,
        val_check_interval=2,
    )
    with safe_open(tmp_path / "told.safetensors", "pt") as file:
        assert file.metadata()["representation_name"] == "cells"
        assert file.metadata()["representation_sha256"] == look().sha256
        assert file.get_tensor("ssl_emb.weight").shape == (128, 20)
    assert (tmp_path / "samples" / "step_0000002.png").is_file()
    assert 0 < keep.best < 2


def test_an_unconditional_network_is_what_it_starts_as(root, tmp_path):
    torch.manual_seed(0)
    net, x, t = GuidedUNet(**FLAGS), torch.randn(2, 3, 16, 16), torch.tensor([3, 900])
    for parameter in net.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    torch.save(net.state_dict(), tmp_path / "unet.pt")
    data = pictures(root)
    net_told = RCDM(**FLAGS, checkpoint=str(tmp_path / "unet.pt"))
    task = model(data, net=net_told, channels_last=False)
    with torch.no_grad():
        told = Given(vector=data.vectors_of("val", [0, 1]))
        assert torch.equal(task.ema(x, t, told), net.eval()(x, t))


def test_a_vector_that_tells_lowers_the_loss(root):
    """Own, none and another's by quarter, the same in any batch."""
    data = pictures(root)
    task = model(data, drop=0.0, hide=0.0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in task.ema.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    found = []
    for size in (6, 4):
        data = pictures(root, batch_size=size)
        trainer = pl.Trainer(**QUIET)
        found.append(trainer.test(task, data, verbose=False)[0])
    for name in ("own", "none", "other"):
        assert found[0][f"test/loss_{name}"] == pytest.approx(found[1][f"test/loss_{name}"], 1e-4)
        parts = [value for key, value in found[0].items() if key.startswith(f"test/loss_{name}_q")]
        assert 3 <= len(parts) <= 4
    assert found[0]["test/loss_own"] == pytest.approx(found[0]["test/loss"], 1e-4)
    assert len({found[0][f"test/loss_{name}"] for name in ("own", "none", "other")}) == 3


def test_who_is_told_what_depends_on_the_picture_alone(root, monkeypatch):
    data = pictures(root)
    task = model(data, drop=0.5, hide=0.5)
    monkeypatch.setattr("diffdict.tasks.rcdm.current_epoch", lambda trainer: 3)
    monkeypatch.setattr(type(task), "trainer", None)
    batch = {"image": torch.zeros(8, 3, 16, 16), "index": torch.arange(8)}
    whole = task._left_out(batch)
    part = task._left_out({"image": batch["image"][2:5], "index": batch["index"][2:5]})
    for key in ("told", "hidden"):
        assert torch.equal(whole[key][2:5], part[key])
    assert 0 < int(whole["told"].sum()) < 8
    assert 0.3 < float(whole["hidden"].float().mean()) < 0.7
    assert model(data, drop=0.0, hide=0.0)._left_out(batch) == {}
    given = task.given(task.net, {**batch, "vector": torch.randn(8, 20), **whole})
    assert torch.equal(given.vector == 0, whole["hidden"])


def test_a_flipped_picture_has_its_mirrors_vector(root):
    told = look()
    for ways in ("store", "live"):
        data = pictures(root, vectors=ways)
        data.trainer = None
        sides = set()
        for batch in data.train_dataloader():
            batch = data.on_after_batch_transfer(batch, 0)
            assert torch.allclose(batch["vector"], told.vectors(batch["image"]), atol=1e-6)
            for image, index in zip(batch["image"], batch["index"], strict=True):
                sides.add(bool(torch.equal(image, data.picture("train", int(index)))))
        assert sides == {True, False}


def test_what_is_seen_may_have_another_size(tmp_path):
    data = pictures(tmp_path, look(32), vectors="live")
    batch = next(iter(data.test_dataloader()))
    assert batch["seen"].shape == (4, 3, 32, 32)
    seen, after = batch["seen"], batch["other"]
    batch = data.on_after_batch_transfer(batch, 0)
    assert torch.equal(batch["vector"], look(32).vectors(seen))
    assert torch.equal(batch["other"], look(32).vectors(after))
    assert batch["image"].shape == (4, 3, 16, 16)
    moved = pictures(tmp_path, look(32), vectors="live", crop_padding=2)
    with pytest.raises(UserError, match=r"crop_padding and data.zoom do not move"):
        moved.train_dataloader()


def test_a_store_may_hold_more_pictures(root):
    few = VectorImages(partial(FACES, test_pictures=2), look(), root=root)
    assert torch.equal(few.vectors_of("test", [1]), pictures(root).vectors_of("test", [1]))
    batch = next(iter(few.test_dataloader()))
    assert torch.equal(
        few.on_after_batch_transfer(batch, 0)["other"], batch["vectors"].flip(0)[:, 0]
    )


class Silent(Representation):
    """Says the same of every picture, or no number."""

    def __init__(self, broken=False):
        super().__init__()
        self.name, self.image_size, self.broken = "silent", None, broken
        self.freeze(2)

    def vectors(self, images):
        first = images[:, 0, 0, 0] * (float("nan") if self.broken else 1)
        return torch.stack([first, torch.ones_like(first)], 1)


def test_what_says_nothing_is_left_out(tmp_path):
    data = pictures(tmp_path, Silent(), vectors="live")
    with pytest.warns(UserWarning, match=r"1 of 2 dimensions of silent"):
        assert data.standard.scale[1] == 0
    with pytest.raises(UserError, match=r"The vector of picture 0 by silent is no number"):
        _ = pictures(tmp_path, Silent(broken=True), vectors="live").standard


def test_other_vectors_are_refused(root, tmp_path, straight):
    with pytest.raises(UserError, match=r"No vectors of toy_faces \(train\) by cells"):
        pictures(tmp_path).samples("train")
    many = partial(FACES, train_pictures=30)
    with pytest.raises(UserError, match="vectors of 24 pictures, there are 30"):
        VectorImages(many, look(), root=root).samples("train")
    with pytest.raises(UserError, match=r"backbone_sha256"):
        pictures(root, Pooled(Pixels(16), None, "pixels", grid=3, name="cells")).samples("test")
    for moved in ({"crop_padding": 1}, {"zoom": 1.2}):
        with pytest.raises(UserError, match=r"data.vectors=live"):
            pictures(root, **moved)
    with pytest.raises(UserError, match=r"store or live"):
        pictures(root, vectors="both")
    data = pictures(root, Pooled(Pixels(16), None, "pixels", grid=2, pool="max"), vectors="live")
    with pytest.raises(UserError, match=r"learned with the representation cells"):
        check_resumable(_with_facts(straight, tmp_path), model(data))


def _with_facts(straight, folder) -> str:
    """The checkpoint as `train.py` leaves it, with what its module was made for."""
    content = torch.load(straight[2], weights_only=True)
    content["facts"] = {"representation": straight[0].representation}
    torch.save(content, folder / "last.ckpt")
    return str(folder / "last.ckpt")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"drop": 1.0}, "model.drop is a share"),
        ({"hide": -0.1}, "model.hide is a share"),
        ({"net": GuidedUNet(**FLAGS)}, "takes no vector.*backbone=toy_rcdm"),
        ({"net": RCDM(**FLAGS, ssl_dim=7)}, "width 7, the representation gives 20"),
    ],
)
def test_what_cannot_learn_so(root, options, said):
    with pytest.raises(UserError, match=said):
        model(pictures(root), **copy.copy(options))
