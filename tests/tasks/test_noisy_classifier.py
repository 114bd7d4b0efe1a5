"""Both noisy classifiers: published levels and rates, draws by the picture, resume to the bit."""

import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from diffdict.backbones.ddae_unet import DdaeUnet
from diffdict.backbones.wide_resnet import WideResNet
from diffdict.errors import UserError
from diffdict.features.noise import Noise
from diffdict.features.passes import Passes
from diffdict.features.probe_images import ProbeImages
from diffdict.run.interruption.counters import ExactCounters
from diffdict.tasks.noisy_classifier import (
    NoisyClassifier,
    measured_timesteps,
    timestep_draw,
)
from diffdict.tasks.noisy_classifier_wrn import NoisyClassifierWrn
from diffdict.training.schedule import schedule_by_epoch
from tests.tasks.test_linear_probe import NAMES, SIDE, Net, Painted

ADAM = partial(torch.optim.Adam, lr=1e-2)
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)
FRAMEWORKS = ("ddpm", "edm")
KINDS = [(kind, framework) for kind in ("mlp", "wrn") for framework in FRAMEWORKS]


def unet(framework="ddpm"):
    torch.manual_seed(0)
    flags = {"n_channels": 32, "ch_mults": [1], "is_attn": [False], "n_blocks": 1, "dropout": 0.1}
    more = {"framework": framework, "predict": "eps" if framework == "ddpm" else "x0"}
    return DdaeUnet(image_size=SIDE, **flags, **more)


def wide(framework="ddpm", classes=3):
    torch.manual_seed(0)
    return WideResNet(1, 1, classes, framework, image_size=SIDE)


def classifier(kind, framework, **options):
    known = {"num_classes": 3, "class_names": NAMES, "timestep": [1, 11]}
    torch.manual_seed(1)
    if kind == "wrn":
        return NoisyClassifierWrn(wide(framework), optimizer=SGD, **known | options)
    return NoisyClassifier(unet(framework), ADAM, **known | {"block": 1} | options)


def images(**options):
    known = {
        "batch_size": 8,
        "flip": True,
        "crop_padding": 1,
        "drop_last": False,
        "val_share": None,
    }
    return ProbeImages(partial(Painted, count=24), **known | options)


def trainer(callbacks=(), **options):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[ExactCounters(), *callbacks],
        **{"max_epochs": 2, "log_every_n_steps": 1, **options},
    )


def test_the_published_levels():
    assert measured_timesteps(wide("ddpm")) == list(range(1, 1000, 50))
    assert measured_timesteps(wide("edm")) == list(range(1, 19))


@pytest.mark.parametrize(("kind", "framework"), KINDS)
def test_colours_are_learned_and_noise_hides_them(kind, framework):
    data = images(batch_size=12)
    module = classifier(kind, framework, timestep=None)
    fit = trainer(max_epochs=6)
    fit.fit(module, data)
    fit.test(module, data, verbose=False)
    rows = module.tables()["cells"]
    assert [row["timestep"] for row in rows] == measured_timesteps(module.passes.net)
    sigmas = [row["sigma"] for row in rows]
    assert sigmas == sorted(sigmas)
    if framework == "edm":
        assert sigmas[3] == pytest.approx(0.0599, rel=1e-2)
    accuracies = [row["accuracy"] for row in rows]
    assert max(accuracies[:4]) > 0.6 > accuracies[-1]
    assert rows[0]["chance"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_features_of_a_timestep_each_are_those_of_it_alone(framework):
    net = unet(framework).eval()
    pictures = torch.stack([Painted()[i]["image"] for i in range(3)])
    passes = Passes(net, [1], [1], Noise(shared=False))
    t = torch.tensor([4, 17, 2])
    (together,) = passes.own_maps(pictures, [0, 1, 2], t).values()
    for index, each in enumerate(t.tolist()):
        alone = Passes(net, each, [1], Noise(shared=False))
        own = alone.maps(pictures[index : index + 1], [index])[each, 1]
        torch.testing.assert_close(together[index], own[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="needs a timestep between 1"):
        passes.own_maps(pictures, [0, 1, 2], torch.tensor([1, 2, 0]))


@pytest.mark.parametrize(("kind", "framework"), KINDS)
def test_what_happens_to_a_picture_does_not_depend_on_its_batch(kind, framework):
    module = classifier(kind, framework).eval()
    pictures = torch.stack([Painted()[i]["image"] for i in range(6)])
    with torch.no_grad():
        whole = module.logits(pictures, list(range(6)), epoch=1)
        part = module.logits(pictures[[4, 1]], [4, 1], epoch=1)
        other = module.logits(pictures[[4, 1]], [4, 1], epoch=2)
    torch.testing.assert_close(part, whole[[4, 1]], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(part, other, rtol=1e-2)


def test_levels_are_drawn_evenly_or_by_edms_law():
    for framework, end in (("ddpm", 1000), ("edm", 18)):
        module = classifier("mlp", framework)
        t = module.draw(range(3000), 0, timestep_draw(module.passes.net)).double()
        assert t.min() >= 1
        assert end - 2 <= t.max() <= end
        assert float(t.mean()) == pytest.approx((1 + end) / 2, rel=0.04)
    wrn, logs = classifier("wrn", "edm"), []
    wrn.net.told = lambda t: logs.append(t.log()) or t.log()
    wrn.net.forward = lambda x, time: x.flatten(1)[:, :3]
    wrn.logits(torch.zeros(1500, 3, 4, 4), range(1500), epoch=0)
    assert float(logs[0].mean()) == pytest.approx(-1.2, abs=0.1)
    assert float(logs[0].std()) == pytest.approx(1.2, abs=0.1)


def test_the_rate_rises_by_epochs_and_goes_on_as_torchs_own_cosine():
    """By hand as the original: five rates that are set, torch's recursive cosine from there on."""
    epochs, warm, layer = 12, 5, nn.Linear(1, 1)
    theirs = torch.optim.SGD(layer.parameters(), lr=0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=epochs)
    wanted = []
    for epoch in range(epochs):
        if epoch < warm:
            theirs.param_groups[0]["lr"] = 0.1 * (epoch + 1) / warm
        wanted.append(theirs.param_groups[0]["lr"])
        theirs.step()
        cosine.step()
    ours = torch.optim.SGD(layer.parameters(), lr=0.1)

    class Run(pl.Trainer):
        estimated_stepping_batches, num_training_batches = 3 * epochs, 3
        accumulate_grad_batches, max_epochs = 1, epochs

        def __init__(self):
            pass

    schedule = schedule_by_epoch(ours, Run(), "cosine", warm)["lr_scheduler"]["scheduler"]
    got = []
    for _ in range(3 * epochs):
        got.append(ours.param_groups[0]["lr"])
        ours.step()
        schedule.step()
    assert got[::3] == got[1::3] == got[2::3]
    assert got[::3] == pytest.approx(wanted, rel=1e-6)


class Stop(pl.Callback):
    """Leaves a checkpoint in mid-epoch."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True
            trainer.fit_loop.epoch_loop.max_steps = self.step


@pytest.mark.parametrize(("kind", "framework"), KINDS)
def test_a_resumed_run_is_the_straight_one_to_the_bit(tmp_path, kind, framework):
    straight = classifier(kind, framework)
    trainer(max_epochs=3).fit(straight, images())
    broken = classifier(kind, framework)
    trainer([Stop(4, tmp_path / "mid.ckpt")], max_epochs=3).fit(broken, images())
    resumed = classifier(kind, framework)
    trainer(max_epochs=3).fit(resumed, images(), ckpt_path=tmp_path / "mid.ckpt")
    ours, theirs = straight.state_dict(), resumed.state_dict()
    assert ours.keys() == theirs.keys()
    assert any(not torch.equal(ours[key], broken.state_dict()[key]) for key in ours)
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key


def test_a_checkpoint_holds_the_head_alone_and_knows_its_network():
    module = classifier("mlp", "ddpm")
    assert all(key.startswith("head.") for key in module.state_dict())
    content = {}
    module.on_save_checkpoint(content)
    module.check_checkpoint("a.ckpt", content)
    other = {"noisy": {**content["noisy"], "weights": "0"}}
    with pytest.raises(UserError, match="was learned with weights 0, here it is"):
        module.check_checkpoint("a.ckpt", other)


def test_pictures_held_out_are_measured():
    module = classifier("mlp", "ddpm")
    fit = trainer(max_epochs=1)
    fit.fit(module, images(val_share=0.25))
    assert 0 <= float(fit.callback_metrics["val/accuracy"]) <= 1


def test_what_is_no_number_stops_the_run():
    module = classifier("mlp", "ddpm")
    module.head.cls[0].weight.data.fill_(math.inf)
    with pytest.raises(UserError, match="The loss is no number at step 0"):
        trainer().fit(module, images())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: classifier("mlp", "ddpm", block=[1, 2]), "A head looks at one block, got 2"),
        (lambda: classifier("mlp", "ddpm", decay="slow"), "model.decay is none"),
        (lambda: classifier("mlp", "ddpm", warmup_epochs=-1), "warmup_epochs is at least 0"),
        (lambda: classifier("mlp", "ddpm", timestep=[0]), "needs a timestep between 1 and 1000"),
        (lambda: classifier("mlp", "edm", timestep=[19]), "needs a timestep between 1 and 18"),
        (lambda: classifier("wrn", "ddpm", num_classes=2, class_names=["a", "b"]), "num_classes=2"),
        (
            lambda: NoisyClassifierWrn(unet(), optimizer=SGD, num_classes=3, class_names=NAMES),
            "trains a WideResNet, got ddae_unet: backbone=wide_resnet",
        ),
        (lambda: NoisyClassifier(plain(), ADAM, 3, NAMES), "net has no timesteps"),
    ],
)
def test_settings_that_cannot_be(make, said):
    with pytest.raises(UserError, match=said):
        make()


def plain():
    net = Net()
    net.num_timesteps = None
    return net
