"""task=fine_tuning: what learns and what does not, from weights or scratch, a resume to the bit."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from diffdict.backbones.ddae_unet import DdaeUnet
from diffdict.classifiers.linear import LinearHeads
from diffdict.errors import UserError
from diffdict.features.noise import Noise
from diffdict.seeds import entropy
from diffdict.tasks.fine_tuning import FineTuning
from tests.tasks.test_linear_probe import SIDE, Masked, Net, Painted, Scales, images, trainer

ADAM = partial(torch.optim.Adam, lr=1e-2)
NOISE = Noise(shared=False)


def unet(dropout=0.1, checkpoint=None):
    torch.manual_seed(0)
    flags = {"n_channels": 32, "ch_mults": [1, 1], "is_attn": [False, False], "n_blocks": 1}
    return DdaeUnet(image_size=SIDE, dropout=dropout, checkpoint=checkpoint, **flags)


def tuning(data=None, net=None, optimizer=ADAM, **options):
    facts = (data or images()).facts
    known = {key: facts[key] for key in ("num_classes", "class_names", "target")}
    asked = {"timestep": 10, "block": 2, "noise": NOISE}
    return FineTuning(net or unet(), optimizer, **known, **{**asked, **options})


def fitted(module, data=None, **options):
    fit = trainer(**{"max_epochs": 2, **options})
    fit.fit(module, datamodule=data or images(val_share=None))
    return fit


class StopAt(pl.Callback):
    """Ends a run after a step, as a signal does."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.step
        trainer.limit_val_batches = 0


def weights(module):
    return {key: value.clone() for key, value in module.net.state_dict().items()}


def test_layers_up_to_the_block_learn_and_those_behind_it_are_never_passed():
    module = tuning()
    before, later = weights(module), [module.net.up[3], module.net.norm, module.net.final]
    for layer in later:
        layer.register_forward_hook(lambda *_: pytest.fail("passed"))
    assert not any(p.requires_grad for layer in later for p in layer.parameters())
    fitted(module)
    after = module.net.state_dict()
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert moved == {key for key, p in module.net.named_parameters() if p.requires_grad}
    assert "up.0.res.conv1.weight" in moved or any(key.startswith("up.0.") for key in moved)
    assert not [key for key in moved if key.startswith(("up.3", "up.4", "norm", "final"))]


def test_a_step_is_torchs_own_on_all_layers():
    """A pass, the mean over the map, a linear layer, cross-entropy; two rates in one optimizer."""
    data = images(val_share=None, flip=False, crop_padding=0)
    sgd = partial(torch.optim.SGD, lr=0.1)
    module = tuning(net=unet(0.0), optimizer=sgd, net_rate=0.01, warmup_steps=0, decay="none")
    net = unet(0.0)
    heads = LinearHeads([32], 3, seeds=[entropy(0, *b"t0010-b02")])
    learned = [p for p in net.parameters() if p.requires_grad]
    groups = [{"params": heads.parameters()}, {"params": learned, "lr": 0.01}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    batch = next(iter(data.train_dataloader()))
    noise = NOISE._replace(seed=entropy(0, 0, 0)).for_pictures(
        batch["index"].tolist(), (3, SIDE, SIDE)
    )
    pooled = net.features(batch["image"], 10, [2], noise[0])[2].mean((2, 3))
    F.cross_entropy(heads([pooled])[0, 0], batch["truth"].argmax(1)).backward()
    optimizer.step()
    fitted(module, data, max_steps=1)
    torch.testing.assert_close(module.head.state_dict(), heads.state_dict())
    torch.testing.assert_close(module.net.state_dict(), net.state_dict())
    assert not torch.equal(module.net.image_proj.weight, unet(0.0).image_proj.weight)


def test_colours_are_learned_and_told(tmp_path):
    data = images(val_share=0.25)
    module = tuning(data, warmup_steps=2)
    fit = fitted(module, data, max_epochs=6)
    assert float(fit.callback_metrics["val/t0010-b02/accuracy"]) > 0.9
    fit.test(module, datamodule=data, verbose=False)
    (row,) = module.tables()["cells"]
    assert (row["timestep"], row["block"], row["train_pictures"]) == (10, 2, 36)
    assert (row["start"], row["chance"]) == ("scratch", pytest.approx(1 / 3))
    assert row["accuracy"] > 0.9
    assert row["sigma"] == pytest.approx(unet().noise_level(10))
    logged = {key: float(value) for key, value in fit.callback_metrics.items()}
    assert logged["test/t0010-b02/accuracy"] == pytest.approx(row["accuracy"])
    assert [one["train_pictures"] for one in module.tables()["classes"]] == [12, 12, 12]
    looked = module.eval().look(Painted("test")[1]["image"], folder=tmp_path)
    assert looked[0]["class"] == "green"


def test_what_a_picture_shows_is_learned_too():
    data = images(Masked, least_pixels=10, crop_padding=0, val_share=None, label_share=0.5)
    module = tuning(data)
    fit = fitted(module, data, max_epochs=8)
    fit.test(module, datamodule=data, verbose=False)
    (row,) = module.tables()["cells"]
    assert row["train_pictures"] == 24
    assert row["average_precision"] > 0.9
    assert [one["in_mean"] for one in module.tables()["classes"]] == [False, True, True]


@pytest.mark.parametrize("stop", [2, 6, 7])  # six batches an epoch
def test_a_resumed_run_is_the_straight_one_to_the_bit(tmp_path, stop):
    data = partial(images, val_share=None)
    straight, losses = tuning(), Scales()
    fitted(straight, data(), callbacks=[losses])
    first, before, after = tuning(), Scales(), Scales()
    fit = fitted(first, data(), callbacks=[before, StopAt(stop)])
    fit.save_checkpoint(tmp_path / "last.ckpt")
    torch.manual_seed(3)
    again, on = tuning(), trainer(max_epochs=2, callbacks=[after])
    on.fit(again, datamodule=data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert (len(before.losses), before.losses + after.losses) == (stop, losses.losses)
    for key, value in straight.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_it_begins_with_a_networks_weights_and_leaves_a_network(tmp_path):
    file = tmp_path / "ddae.pt"
    torch.save(unet().state_dict(), file)
    module = tuning(net=unet(checkpoint=str(file)))
    assert len(module.start) == 64
    fitted(module).save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    module.check_checkpoint("last.ckpt", content)
    learned = unet(checkpoint=str(tmp_path / "last.ckpt"))
    for key, value in module.net.state_dict().items():
        assert torch.equal(value, learned.state_dict()[key]), key
    for other, said in (
        (tuning(), "heads of start .*…, here it is scratch"),
        (tuning(net=unet(checkpoint=str(file)), block=1), "cell t0010-b02, here it is t0010-b01"),
    ):
        with pytest.raises(UserError, match=said):
            other.check_checkpoint("last.ckpt", content)


def test_a_head_begins_as_that_of_a_probe_and_noise_belongs_to_the_picture():
    module = tuning().eval()
    pictures = torch.stack([Painted()[i]["image"] for i in range(6)])
    with torch.no_grad():
        whole = module.scores(pictures, list(range(6)), NOISE)
        part = module.scores(pictures[[4, 1]], [4, 1], NOISE)
    torch.testing.assert_close(part, whole[:, :, [4, 1]], rtol=1e-4, atol=1e-5)
    heads = LinearHeads([32], 3, seeds=[entropy(0, *b"t0010-b02")])
    assert torch.equal(module.head.own[0]["32"].weight, heads.own[0]["32"].weight)


class Frozen(Net):
    """No weight of it is of use to its blocks."""

    def features(self, images, timestep=None, blocks=None, noise=None):
        return {key: x.detach() for key, x in super().features(images, 5, blocks, noise).items()}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"block": [1, 2]}, r"as far as one place, got 2 of block=: block=1"),
        ({"block": "all"}, "got 4 of block="),
        ({"timestep": [10, 20]}, r"got 2 of timestep=: timestep=10"),
        ({"timestep": 0}, "needs a timestep between 1 and 1000"),
        ({"block": 9}, "has no block 9"),
        ({"net": Frozen()}, "No weight of net moves its block 2"),
        ({"net_rate": 0}, r"model\.net_rate is a positive number, got 0: 1e-4"),
        ({"decay": "slow"}, r"model\.decay is none, .*, got 'slow'"),
        ({"warmup_steps": -1}, "warmup_steps counts optimizer steps, got -1"),
    ],
)
def test_settings_that_cannot_be(options, said):
    with pytest.raises(UserError, match=said):
        tuning(**options)
