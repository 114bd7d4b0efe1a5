"""The task of PDAE and DiTi: what it freezes, learns, averages, logs, keeps and goes on from."""

import math
import re
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from diffdict import checkpoints
from diffdict.backbones.code_encoder import CodeEncoder
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.pdae_file import open_pdae
from diffdict.backbones.resnet10 import ResNet10
from diffdict.data.images import ImageDataModule
from diffdict.data.toy_faces import ToyFaces
from diffdict.diffusion.shift import gap_losses, posterior_eps
from diffdict.errors import UserError
from diffdict.reports.samples.code_sheet import CodeSheet, validation_pictures
from diffdict.tasks.pdae import PdaeTraining

FLAGS = {
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,1",
    "attention_resolutions": "8",
    "num_head_channels": 16,
    "use_scale_shift_norm": True,
    "learn_sigma": True,
    "resblock_updown": True,
    "dropout": 0.1,
    "predict": "v",
}
STAGES = {"number": 4, "stages": [500, 1000], "dims": [3, 5]}


class Seen(pl.Callback):
    """The loss of every batch."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def frozen(seed=0, **flags):
    """A denoiser that predicts something."""
    torch.manual_seed(seed)
    net = GuidedUNet(16, **FLAGS | flags)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return net


def model(seed=0, optimizer=torch.optim.Adam, lr=1e-2, net=None, encoder=None, **options):
    net = net or frozen()
    torch.manual_seed(seed)
    encoder = encoder or CodeEncoder(16, 8, [32, 32])
    settings = {"segments": STAGES, "ema_decay": 0.9, "warmup_steps": 2, **options}
    return PdaeTraining(net, encoder, partial(optimizer, lr=lr), **settings)


def pictures(batch_size=4, count=12):
    make = partial(ToyFaces, image_size=16, train_pictures=count, val_pictures=6, test_pictures=4)
    return ImageDataModule(make, batch_size=batch_size, flip=True)


def trainer(folder, steps, **options):
    keep = pl.callbacks.ModelCheckpoint(
        folder, filename="{step}", every_n_train_steps=options.pop("every", 100), save_top_k=-1
    )
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    machine = {"accelerator": "cpu", "limit_val_batches": 0, "log_every_n_steps": 1}
    return pl.Trainer(
        max_steps=steps,
        callbacks=[keep, *options.pop("callbacks", [])],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        default_root_dir=folder,
        **quiet | machine | options,
    )


def fit(folder, steps, task=None, data=None, resume=None, **options):
    seen, task = Seen(), task or model()
    trainer(folder, steps, callbacks=[seen], **options).fit(
        task, data or pictures(), ckpt_path=resume, weights_only=True
    )
    return task, seen.losses


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Five steps of epochs that are three long."""
    return fit(tmp_path_factory.mktemp("straight"), 5, every=5)


@pytest.mark.parametrize("broken_at", [2, 3])
def test_a_resumed_run_is_the_straight_run(tmp_path, straight, broken_at):
    """In mid-epoch and at its end: losses, weights, averages and sums agree bit by bit."""
    whole, losses = straight
    fit(tmp_path / "broken", broken_at, every=broken_at)
    resume = tmp_path / "broken" / f"step={broken_at}.ckpt"
    resumed, rest = fit(tmp_path / "resumed", 5, task=model(seed=1), resume=resume)
    assert rest == losses[broken_at:]
    assert len(set(losses)) == 5
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert whole.tables() == resumed.tables()


def test_the_frozen_network_stays_and_is_held_once(straight):
    task, _ = straight
    fresh, state = frozen().state_dict(), task.state_dict()
    held = [key for key in state if "denoiser" in key]
    assert held == [f"net.denoiser.{key}" for key in fresh]
    assert all(torch.equal(state[f"net.denoiser.{key}"], value) for key, value in fresh.items())
    assert task.pdae().denoiser is task.net.denoiser
    assert not task.net.denoiser.training
    learning = {id(p) for part in task.learning() for p in part.parameters()}
    assert {id(p) for p in task.parameters() if p.requires_grad} == learning
    start = model().state_dict()
    for part in ("encoder", "shift"):
        moved = [
            key for key in state if f".{part}." in key and not torch.equal(state[key], start[key])
        ]
        assert {key.split(".")[0] for key in moved} == {"net", "ema"}


@pytest.mark.parametrize(
    "options",
    [{}, {"segments": None}, {"shift": "prediction", "weight": "own"}, {"encoder": ResNet10(16)}],
    ids=["diti", "pdae", "prediction", "resnet10"],
)
def test_a_checkpoint_is_a_backbone_with_the_averages(tmp_path, options):
    """Nothing is said twice: flags, parts and what the shift half puts out come with the file."""
    if "encoder" in options:
        options["segments"] = {"number": 4}
    task, _ = fit(tmp_path, 2, model(**options), every=2)
    path = str(tmp_path / "step=2.ckpt")
    net = open_pdae(16, path).eval()
    assert net.state_dict().keys() == task.pdae().state_dict().keys()
    for key, value in task.pdae().state_dict().items():
        assert torch.equal(net.state_dict()[key], value), key
    assert net.segments == task.net.segments
    assert net.shapes == task.net.shapes
    assert net.denoiser.settings == task.net.denoiser.settings
    assert net.denoiser.flags == task.net.denoiser.flags
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([5, 900])
    with torch.no_grad():
        for one, other in zip(
            net.denoise(x, t, net.codes(x)),
            task.pdae().denoise(x, t, task.pdae().codes(x)),
            strict=True,
        ):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)
    found = checkpoints.inspect(path)
    assert (found.kind, found.flags["learn_sigma"]) == (checkpoints.PDAE, True)


def test_what_is_typed_beside_our_own_file_has_to_agree(tmp_path, straight):
    path = str(next(iter(tmp_path.parent.glob("straight*/step=5.ckpt"))))
    assert open_pdae(16, path, predict="v", segments=STAGES).segments.number == 4
    for words, message in (
        ({"num_heads": 2}, "learned with num_heads=1, got 2: leave backbone.num_heads out"),
        ({"shift": "prediction"}, "learned with shift=gradient, got prediction"),
        ({"segments": {"number": 2}}, "was learned with other segments, number=4 stages=[500, 10"),
        ({"flags": "config.yml"}, "says its flags itself, got flags=config.yml"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            open_pdae(16, path, **words)


@pytest.mark.parametrize("shift", ["gradient", "prediction"])
@pytest.mark.parametrize("weight", ["gap", "own"])
@pytest.mark.parametrize("predict", ["eps", "v", "x0"])
@torch.no_grad()
def test_losses_are_the_formulas(shift, weight, predict):
    """By hand: the frozen network's own squared error, and PDAE's of its gradient."""
    net = frozen(predict=predict, dropout=0.0)
    task = model(net=net, shift=shift, weight=weight, segments=None)
    for parameter in task.net.shift.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    images, noise, t = (
        torch.rand(2, 3, 16, 16) * 2 - 1,
        torch.randn(2, 3, 16, 16),
        torch.tensor([80, 700]),
    )
    codes, schedule = task.net.codes(images), net.process
    x_t = schedule.noised(images, t, noise)
    losses = task.losses(task.net.eval(), images, t, noise, codes)
    prediction, added = task.net(x_t, t, codes)
    abar = schedule.alphas_cumprod[t].float()[:, None, None, None]
    truth = {"eps": noise, "x0": images, "v": abar.sqrt() * noise - (1 - abar).sqrt() * images}[
        predict
    ]
    denoised = task.net.denoise(x_t, t, codes)
    if shift == "gradient" and weight == "gap":
        expected = gap_losses(schedule, noise, *denoised, t)
    elif shift == "prediction" and weight == "own":
        expected = (truth - prediction - added).square().mean((1, 2, 3))
    else:
        eps = posterior_eps(schedule, *denoised, t)
        if shift == "prediction":
            slope = {
                "eps": torch.ones_like(abar),
                "v": abar.sqrt(),
                "x0": -(abar / (1 - abar)).sqrt(),
            }
            eps = denoised.eps + slope[predict] * added
        scale = {
            "eps": torch.ones_like(abar),
            "v": 1 / abar.sqrt(),
            "x0": ((1 - abar) / abar).sqrt(),
        }
        snr = abar / (1 - abar)
        factor = scale[predict] ** 2 if weight == "own" else snr**0.1 / (1 + snr)
        expected = (factor * (noise - eps).square()).mean((1, 2, 3))
    torch.testing.assert_close(losses.filled, expected, rtol=1e-3, atol=1e-6)
    if weight == "own":
        own = (truth - prediction).square().mean((1, 2, 3))
        torch.testing.assert_close(losses.frozen, own, rtol=1e-3, atol=1e-6)


def test_dual_is_one_pass_with_the_gradients_of_both_modes():
    """In double precision, without dropout, which a second pass would draw anew."""
    images, noise = torch.rand(2, 4, 3, 16, 16, dtype=torch.float64)
    t, gradients = torch.tensor([10, 300, 600, 990]), {}
    for mode in ("base", "stop_grad", "dual"):
        task = model(net=frozen(dropout=0.0), mode=mode).double()
        generator = torch.Generator().manual_seed(0)
        for parameter in task.net.shift.parameters():  # else no code is heard yet
            nn.init.normal_(parameter, std=0.1, generator=generator)
        losses = task.losses(task.net, images, t, noise, task.net.codes(images), mode).filled
        (losses.mean() * (2 if mode == "dual" else 1)).backward()
        gradients[mode] = [p.grad for part in task.learning() for p in part.parameters()]
    moved = 0
    for base, stopped, both in zip(*gradients.values(), strict=True):
        torch.testing.assert_close(both, base + stopped, rtol=1e-10, atol=1e-13)
        moved += not torch.equal(base, stopped)
    assert moved > 3  # of the encoder: what its earlier parts learn


def test_modes_have_one_value_in_training(tmp_path):
    first = [
        fit(tmp_path / mode, 1, model(mode=mode))[1][0] for mode in ("base", "stop_grad", "dual")
    ]
    assert first[0] == first[1]
    assert first[2] == 2 * first[0]


def test_accumulation_is_a_bigger_batch(tmp_path):
    """Same draws, same steps; SGD, for Adam magnifies rounding of tiny gradients."""
    make = partial(model, optimizer=torch.optim.SGD, lr=1.0, net=frozen(dropout=0.0))
    whole, _ = fit(tmp_path / "whole", 3, make(), pictures(4))
    make = partial(model, optimizer=torch.optim.SGD, lr=1.0, net=frozen(dropout=0.0))
    parts, _ = fit(tmp_path / "parts", 3, make(), pictures(2), accumulate_grad_batches=2)
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[key], value, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("channels_last", [True, False])
def test_bfloat16_stays_near_float32(tmp_path, channels_last):
    _, exact = fit(tmp_path / "a", 3, model(channels_last=channels_last))
    _, rough = fit(tmp_path / "b", 3, model(channels_last=channels_last), precision="bf16-mixed")
    assert rough == pytest.approx(exact, rel=0.05)
    assert rough != exact


def test_what_is_logged_and_tabled(tmp_path):
    """Shares in all, by quarter and by stage; of judged pictures with codes exchanged too."""
    task, data = model(), pictures()
    machine = trainer(tmp_path, 3, limit_val_batches=1.0, val_check_interval=3)
    machine.fit(task, data)
    logged = machine.logged_metrics
    assert {f"train/{name}" for name in ("loss", "grad_norm", "images_per_s", "gap_filled")} <= set(
        logged
    )
    places = ["", "_q1", "_q2", "_q3", "_q4", "_stage0", "_stage1"]
    judged = {f"val/gap_filled{place}" for place in places}
    judged |= {f"val/gap_filled_exchanged{place}" for place in places}
    assert judged | {"val/loss"} <= set(logged)
    assert all(math.isfinite(value) for value in logged.values())
    machine.test(task, data, verbose=False)
    rows = task.tables()["timesteps"]
    assert len(rows) == 1000
    assert sum(row["train_pictures"] for row in rows) == 12
    assert sum(row["test_pictures"] for row in rows) == 4
    met = next(row for row in rows if row["test_pictures"])
    assert met["test_gap_filled"] == pytest.approx(1 - met["test_loss"] / met["test_loss_frozen"])


def test_judged_figures_do_not_hang_on_the_batch(tmp_path):
    """But for exchanged codes, which the next picture of the batch gives."""
    figures = []
    for size in (2, 6):
        machine = trainer(tmp_path, 1, limit_val_batches=1.0)
        found = machine.validate(model(), pictures(size), verbose=False)[0]
        figures.append({key: value for key, value in found.items() if "exchanged" not in key})
    assert figures[0] == pytest.approx(figures[1], rel=1e-4)


def test_it_starts_from_another_run_under_other_settings(tmp_path, straight):
    path = str(next(iter(tmp_path.parent.glob("straight*/step=5.ckpt"))))
    task = model(seed=3, segments=None, mode="base", weight="own", start=path, lr=0.0)
    fit(tmp_path, 1, task)
    average = straight[0].pdae().state_dict()
    for key, value in task.pdae().state_dict().items():
        torch.testing.assert_close(value, average[key])
    for task, message in (
        (model(net=frozen(seed=5), start=path), "was learned over another frozen network than gui"),
        (
            model(encoder=CodeEncoder(16, 12, [32, 32]), segments=None, start=path),
            "does not fit code_en",
        ),
    ):
        with pytest.raises(UserError, match=message):
            fit(tmp_path, 1, task)
    torch.save(frozen().state_dict(), tmp_path / "dpm.pt")
    with pytest.raises(UserError, match="holds no encoder and shift half: give a run of task=pdae"):
        fit(tmp_path, 1, model(start=str(tmp_path / "dpm.pt")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "stop_grad"}, "learned with mode=base, here it is stop_grad"),
        ({"weight": "own"}, "learned with weight=gap, here it is own"),
        ({"segments": None}, "learned with segments="),
        ({"net": frozen(seed=2)}, "learned with denoiser_sha256="),
        ({"shift": "prediction"}, "learned with shift=gradient, here it is prediction"),
    ],
)
def test_a_run_of_another_loss_is_not_gone_on_with(tmp_path, straight, change, message):
    path = next(iter(tmp_path.parent.glob("straight*/step=5.ckpt")))
    with pytest.raises(UserError, match=message + r".*model\.start="):
        checkpoints.check_resumable(path, model(**change))
    assert checkpoints.check_resumable(path, model(seed=9)) == path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "both"}, "model.mode is one of base, stop_grad, dual, got 'both'"),
        ({"mode": "dual", "segments": None}, "model.mode=dual says which segments learn"),
        ({"shift": "noise"}, "shift is one of gradient, prediction, got 'noise'"),
        ({"weight": "snr"}, "weight is one of gap, own, got 'snr'"),
        ({"image_size": 32}, "is of 16×16 pictures, got 32×32: dataset.image_size=16"),
        ({"net": GuidedUNet(16, **FLAGS)}, "has fresh weights, and there is no gap to fill"),
        ({"segments": {"number": 4, "steps": 10}}, "give segments.steps=1000"),
    ],
)
def test_settings_that_cannot_be(change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        model(**change)


def test_a_published_average_has_no_warm_up(tmp_path):
    task, _ = fit(tmp_path, 1, model(ema_rule="constant", ema_decay=0.75, warmup_steps=0))
    start, state = model().state_dict(), task.state_dict()
    key = "shift.shift_out.2.bias"
    expected = 0.75 * start[f"net.{key}"] + 0.25 * state[f"net.{key}"]
    torch.testing.assert_close(state[f"ema.{key}"], expected)
    assert state[f"ema.{key}"].abs().sum() > 0


def test_sheets_show_validation_pictures_and_what_their_codes_draw(tmp_path):
    sheets = CodeSheet(every_n_steps=2, pictures=3, steps=3)
    task, data = model(), pictures()
    trainer(tmp_path, 3, callbacks=[sheets]).fit(task, data)
    assert [path.name for path in (tmp_path / "codes").iterdir()] == ["step_0000002.png"]
    images = validation_pictures(data, 3)
    assert torch.equal(images[1], data.split("val")[1]["image"])
    with torch.no_grad():
        drawn = [sheets.draw(task.pdae(), chosen) for chosen in (images, images, images.flip(0))]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0][1:2], drawn[2][:1])
