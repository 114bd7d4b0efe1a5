"""The diffusion task: exact resume, its average, what it logs, and its checkpoint as a backbone."""

import copy
import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.data.images import ImageDataModule
from diffdict.data.toy_faces import ToyFaces
from diffdict.diffusion.objectives import Objective
from diffdict.errors import UserError
from diffdict.reports.samples.sample_grid import SampleGrid
from diffdict.tasks.diffusion import Diffusion
from diffdict.training.average import average_decay, update_average
from diffdict.training.averaged import LossMeans

FLAGS = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": [1, 1],
    "attention_resolutions": [8],
    "num_head_channels": 16,
    "use_scale_shift_norm": True,
    "learn_sigma": True,
}


class Seen(pl.Callback):
    """The loss of every batch, and every figure as it is logged."""

    def __init__(self):
        self.losses, self.logged = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())
        self.logged.append(dict(trainer.logged_metrics))


class Numbered(ToyFaces):
    """Toy faces with a class each."""

    def __getitem__(self, index):
        return super().__getitem__(index) | {"label": index % 10}


def model(seed=0, lr=1e-3, optimizer=torch.optim.AdamW, flags=FLAGS, **options):
    torch.manual_seed(seed)
    return Diffusion(
        GuidedUNet(**flags),
        partial(optimizer, lr=lr),
        Objective(),
        **{"ema_decay": 0.9, "warmup_steps": 4, **options},
    )


def pictures(batch_size=4, count=24, dataset=ToyFaces):
    make = partial(dataset, image_size=16, train_pictures=count, val_pictures=4, test_pictures=4)
    return ImageDataModule(make, batch_size=batch_size, flip=True)


def fit(folder, steps, task=None, data=None, resume=None, every=100, **options):
    seen = Seen()
    keep = pl.callbacks.ModelCheckpoint(
        folder, filename="{step}", every_n_train_steps=every, save_top_k=-1
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        callbacks=[seen, keep],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        default_root_dir=folder,
        **{"log_every_n_steps": 1, "limit_val_batches": 0, **options},
    )
    task = task or model()
    trainer.fit(task, data or pictures(), ckpt_path=resume, weights_only=True)
    return task, seen


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """11 steps of epochs that are 6 long, without a break."""
    return fit(tmp_path_factory.mktemp("straight"), 11)


@pytest.mark.parametrize("broken_at", [4, 6, 8])
def test_a_resumed_run_is_the_straight_run(tmp_path, straight, broken_at):
    """In mid-epoch, at its end and after it: losses, weights and average agree bit by bit."""
    whole, seen = straight
    fit(tmp_path / "broken", broken_at, every=broken_at)
    resume = tmp_path / "broken" / f"step={broken_at}.ckpt"
    resumed, rest = fit(tmp_path / "resumed", 11, task=model(seed=1), resume=resume)
    assert rest.losses == seen.losses[broken_at:]
    assert len(set(seen.losses)) == 11
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_the_average_follows_its_recursion(tmp_path):
    task = model(warmup_steps=0)
    by_hand = {key: value.double().clone() for key, value in task.net.named_parameters()}
    decays = [0.1, 2 / 11, 3 / 12, 4 / 13]  # (1 + step) / (10 + step), below 0.9

    class Recursion(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            decay = decays[batch_idx]
            for key, value in pl_module.net.named_parameters():
                by_hand[key] = decay * by_hand[key] + (1 - decay) * value.detach().double()

    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=4,
        logger=False,
        callbacks=[Recursion()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(task, pictures())
    for key, value in task.ema.named_parameters():
        torch.testing.assert_close(value.double(), by_hand[key], atol=1e-7, rtol=1e-5)
    moved = max(
        (task.net.state_dict()[k] - v).abs().max() for k, v in task.ema.state_dict().items()
    )
    assert moved > 1e-5


def test_the_decay_warms_up_to_its_value():
    decays = [average_decay(0.999, step) for step in (0, 1, 90, 8989, 10**6)]
    assert decays == [0.1, 2 / 11, 0.91, 8990 / 8999, 0.999]


def test_buffers_are_copied_not_averaged():
    moving = nn.BatchNorm1d(2)
    average = copy.deepcopy(moving)
    moving.running_mean.fill_(3.0)
    moving.num_batches_tracked.fill_(5)
    update_average(average, moving, 0.9)
    assert average.running_mean.tolist() == [3.0, 3.0]
    assert average.num_batches_tracked.item() == 5


def test_the_loss_falls(tmp_path):
    """A zero-initialised network starts at 1, the variance of the noise."""
    data = pictures(batch_size=8, count=8)
    _, seen = fit(tmp_path, 40, task=model(warmup_steps=0, lr=3e-3), data=data)
    assert seen.losses[0] == pytest.approx(1, abs=0.1)
    assert sum(seen.losses[-10:]) < 0.8 * sum(seen.losses[:10])


def test_accumulation_is_a_bigger_batch(tmp_path):
    """Same draws, same pictures, same steps; SGD, for Adam magnifies rounding of tiny gradients."""
    make = partial(model, optimizer=torch.optim.SGD, lr=0.1, warmup_steps=2)
    whole, _ = fit(tmp_path / "whole", 7, task=make(), data=pictures(batch_size=4))
    parts, seen = fit(
        tmp_path / "parts", 7, make(), pictures(batch_size=2), accumulate_grad_batches=2
    )
    assert len(seen.losses) == 14
    fresh, theirs = make().state_dict(), parts.state_dict()
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(theirs[key], value, atol=2e-6, rtol=1e-4)
    assert max((fresh[k] - v).abs().max() for k, v in whole.state_dict().items()) > 1e-3


def test_draws_belong_to_seed_epoch_and_picture():
    task, other = model(), model(seed=3)
    batch = {"image": torch.zeros(3, 3, 16, 16), "index": torch.tensor([5, 9, 7])}
    single = {"image": torch.zeros(1, 3, 16, 16), "index": torch.tensor([9])}
    drawn = task.draw(batch, (0, 2))
    assert torch.equal(other.draw(single, (0, 2)).noise[0], drawn.noise[1])
    assert other.draw(single, (0, 2)).t[0] == drawn.t[1]
    for family in ((0, 3), (1, 2)):
        assert not torch.equal(task.draw(single, family).noise[0], drawn.noise[1])
    task.seed = 1
    assert not torch.equal(task.draw(single, (0, 2)).noise[0], drawn.noise[1])


def test_timesteps_are_uniform_and_noise_is_normal():
    """5 standard errors around each moment."""
    task, count = model(), 4000
    batch = {"image": torch.zeros(count, 1, 2, 2), "index": torch.arange(count)}
    t, noise = task.draw(batch, (0, 0))
    assert t.min() >= 0
    assert t.max() <= 999
    assert abs(t.double().mean() - 499.5) < 5 * 1000 / math.sqrt(12 * count)
    assert abs(noise.double().mean()) < 5 / math.sqrt(4 * count)
    assert abs(noise.double().var() - 1) < 5 * math.sqrt(2 / (4 * count))


def test_the_window_means_each_quarter_and_forgets():
    window = LossMeans("cpu")
    window.add(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 3]))
    window.add(torch.tensor([9.0]), torch.tensor([3]))
    seen = window.flush(ranks=2)
    rate = seen.pop("images_per_s")
    assert seen == {"loss_q1": 2.0, "loss_q4": 7.0}
    assert rate > 0
    assert set(window.flush(1)) == {"images_per_s"}


def test_what_is_logged(tmp_path):
    data = pictures(batch_size=8, count=16)
    task, _ = fit(tmp_path, 4, data=data, log_every_n_steps=2, limit_val_batches=1)
    logged = task.trainer.logged_metrics
    train = {f"train/{name}" for name in ("loss", "grad_norm", "images_per_s")}
    quarters = {f"train/loss_q{q}" for q in (1, 2, 3, 4)}
    assert train | {"val/loss", "val/mse"} <= set(logged)
    assert set(logged) & quarters
    assert all(math.isfinite(value) for value in logged.values())


def test_only_every_nth_step_is_logged_and_with_0_none(tmp_path, logging, logged_steps):
    every, expected = logging
    task = model()
    steps = logged_steps(task, "train/grad_norm")
    fit(tmp_path, 7, task, log_every_n_steps=every)
    assert steps == expected


def test_validation_judges_the_average_always_alike(tmp_path):
    task = model()
    with torch.no_grad():
        for parameter in task.ema.parameters():
            parameter.normal_(0, 0.05)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    first = trainer.validate(task, pictures(), verbose=False)[0]
    second = trainer.validate(task, pictures(), verbose=False)[0]
    assert first == second
    assert first["val/loss"] != pytest.approx(1, abs=0.01)  # what the untouched `net` would get


def test_a_checkpoint_is_a_backbone_with_the_average(tmp_path):
    task, _ = fit(tmp_path, 6, every=6)
    backbone = GuidedUNet(**FLAGS, checkpoint=str(tmp_path / "step=6.ckpt"))
    moving = task.net.state_dict()
    for key, value in task.ema.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value)
    assert any(not torch.equal(backbone.state_dict()[key], moving[key]) for key in moving)


def test_a_class_conditional_network_learns_with_labels(tmp_path):
    task = model(flags={**FLAGS, "class_cond": True}, optimizer=torch.optim.SGD, lr=0.1)
    before = task.net.label_emb.weight.detach().clone()
    fit(tmp_path, 12, task, pictures(dataset=Numbered))  # the first step moves the head alone
    used = (task.net.label_emb.weight.detach() != before).any(1)
    assert used[:10].all()
    assert not used[10:].any()


def test_a_class_conditional_network_says_that_it_needs_labels(tmp_path):
    task = model(flags={**FLAGS, "class_cond": True})
    with pytest.raises(UserError, match=r"takes a label \(1000\), got none"):
        fit(tmp_path, 1, task, pictures())


def test_bfloat16_stays_near_float32(tmp_path):
    """bf16 keeps 8 bits: the loss within 2 %, the weights in float32."""
    _, exact = fit(tmp_path / "a", 5)
    task, rough = fit(tmp_path / "b", 5, precision="bf16-mixed")
    assert rough.losses == pytest.approx(exact.losses, rel=0.02)
    assert rough.losses != exact.losses
    assert next(task.ema.parameters()).dtype == torch.float32


def test_rate_warms_up_and_falls():
    task = model(warmup_steps=4, anneal_steps=10)
    assert [task.rate(step) for step in (0, 1, 5, 10, 20)] == [0.25, 0.45, 0.5, 0.0, 0.0]
    assert [model(warmup_steps=0).rate(step) for step in (0, 10**6)] == [1.0, 1.0]


def test_a_decay_of_one_is_refused():
    with pytest.raises(UserError, match="ema_decay"):
        model(ema_decay=1.0)


def test_sheets_come_at_their_steps_from_the_same_noise(tmp_path):
    data, sheets = pictures(), SampleGrid(every_n_steps=2, pictures=3, steps=3)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=4,
        logger=False,
        callbacks=[sheets],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=tmp_path,
    )
    task = model(warmup_steps=0)
    trainer.fit(task, data)
    assert [path.name for path in sorted((tmp_path / "samples").iterdir())] == [
        "step_0000002.png",
        "step_0000004.png",
    ]
    again = sheets.draw(task.ema, task.objective, task.device)
    assert torch.equal(again, sheets.draw(task.ema, task.objective, task.device))
    assert again.shape == (3, 3, 16, 16)


def test_weights_that_are_no_numbers_are_never_kept(tmp_path):
    with pytest.raises(UserError, match=r"no numbers after step 2.*model\.optimizer\.lr=1e\+29"):
        fit(tmp_path, 8, model(lr=1e30, warmup_steps=0), every=2)
    assert not list(tmp_path.glob("*.ckpt"))
