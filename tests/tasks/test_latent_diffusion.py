"""The denoiser of codes: learns, resumes exactly, and draws codes of no picture; golden loops."""

import re
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from diffdict.backbones.latent_mlp import LatentMLP
from diffdict.conditions.latent_diffusion import DrawnCodes, LatentNetwork, open_latent_network
from diffdict.data.toy_faces import ToyFaces
from diffdict.diffusion.schedules import make_schedule
from diffdict.errors import UserError
from diffdict.features.code_batches import CodeBatches
from diffdict.tasks.latent_diffusion import LatentDiffusion
from tests.inputs import normal
from tests.tasks.test_condition_samples import drawn
from tests.tasks.test_samples import assert_alike, stored
from tests.tiny_pdae import tiny_pdae

FACES = partial(ToyFaces, image_size=16, train_pictures=21, val_pictures=2, test_pictures=3)
SMALL = partial(LatentMLP, width=16, layers=3, time_width=8)


def codes(**options):
    asked = {"source": "live", "dtype": "fp32", "timestep": None, "block": "code"}
    asked |= {"batch_size": 4, "val_pictures": 1} | options
    return CodeBatches(dataset=FACES, backbone=tiny_pdae(), **asked)


def task(data, **options):
    wanted = ("code", "code_mean", "code_std", "backbone", "backbone_sha256")
    facts = {key: value for key, value in data.facts.items() if key in wanted}
    torch.manual_seed(0)
    return LatentDiffusion(SMALL, partial(torch.optim.AdamW, lr=1e-2), **facts | options)


def fit(folder, steps, resume=None):
    data = codes()
    keep = pl.callbacks.ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        callbacks=[keep],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    model = task(data)
    trainer.fit(model, data, ckpt_path=resume, weights_only=True)
    return model, trainer


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent")
    model, trainer = fit(folder / "straight", 8)
    trainer.test(model, codes(), verbose=False)
    return folder, model, trainer


def test_a_resumed_run_is_a_straight_one(learned):
    folder, straight, _ = learned
    fit(folder / "first", 3)
    resumed, _ = fit(folder / "second", 8, str(folder / "first/last.ckpt"))
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_codes_are_made_once_and_normalised(learned):
    _, model, trainer = learned
    data = codes()
    whole = data.codes("train").codes
    assert whole.shape == (21, 8)
    torch.testing.assert_close(model.code_mean, whole.mean(0))
    torch.testing.assert_close(model.code_std, whole.std(0))
    assert 0 < trainer.callback_metrics["test/loss"] < 2
    held = data.val_dataloader()
    assert [len(batch.index) for batch in held] == [1]
    seen = {int(i) for batch in data.train_dataloader() for i in batch.index}
    assert len(seen) == 20
    assert not seen & {int(i) for batch in held for i in batch.index}


def test_ranks_share_out_an_epoch():
    data, seen = codes(batch_size=2), []
    for rank in range(3):
        data._rank_and_world = lambda rank=rank: (rank, 3)
        loader = data.train_dataloader()
        seen.append({int(i) for batch in loader for i in batch.index})
    assert [len(own) for own in seen] == [6, 6, 6]
    assert len(set.union(*seen)) == 18


@torch.no_grad()
def test_both_published_loops(golden):
    case = golden("diti_latent")
    config = case.facts["config"]
    sizes = ("input_channel", "model_channel", "num_layers", "time_emb_channel", "use_norm")
    net = case.fill(LatentMLP(*(config[key] for key in sizes)))
    code = config["input_channel"]
    chain = make_schedule("constant", 1000)
    opened = LatentNetwork(net, torch.zeros(code), torch.ones(code), chain, {})
    for name, clamp in (("as_published_clamped", True), ("unclamped", False)):
        source = DrawnCodes("any", respacing=f"linspace{config['steps']}", clamp=clamp)
        case.check(f"sample.{name}", source.draw(opened, normal(9133, (3, code)).clamp(-1, 1)))


def test_pictures_without_a_source(learned, tmp_path):
    ckpt = str(learned[0] / "straight/last.ckpt")
    source = DrawnCodes(ckpt, respacing="linspace5")
    drawn(tmp_path / "a", source, tiny_pdae(), number=5)
    drawn(tmp_path / "b", source, tiny_pdae(), number=5, batch_size=5, shard_size=5)
    assert_alike(stored(tmp_path / "a"), stored(tmp_path / "b"))
    assert len({picture.tobytes() for picture in stored(tmp_path / "a").values()}) == 5
    first = source.rows(None, 8, 2, torch.device("cpu")).vectors
    torch.testing.assert_close(first, source.rows(None, 8, 5, torch.device("cpu")).vectors[:2])


def test_a_released_file_draws_the_same(learned, tmp_path):
    own = open_latent_network(learned[0] / "straight/last.ckpt")
    torch.save({"ema_latent_denoise_fn": own.net.state_dict(), "step": 3}, tmp_path / "theirs.pt")
    torch.save({"mean": own.mean[None], "std": own.std[None]}, tmp_path / "moments.pt")
    theirs = open_latent_network(tmp_path / "theirs.pt", str(tmp_path / "moments.pt"))
    noise = normal(1, (2, 8))
    draw = DrawnCodes("any", respacing="linspace5").draw
    assert torch.equal(draw(own, noise), draw(theirs, noise))
    with pytest.raises(UserError, match=r"condition.latents=FILE names their mean and std"):
        open_latent_network(tmp_path / "theirs.pt")


def test_mistakes_are_named(learned, tmp_path):
    ckpt, data = str(learned[0] / "straight/last.ckpt"), codes()
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    other = tiny_pdae()
    other.encoder.encoder[0].weight.data += 1
    for make, said in (
        (lambda: DrawnCodes(None), "condition.ckpt=outputs/…/last.ckpt"),
        (lambda: open_latent_network(Path("nowhere.ckpt")), "No file condition.ckpt=nowhere"),
        (lambda: open_latent_network(tmp_path / "other.ckpt"), "is no run of task=latent_diffu"),
        (lambda: drawn(tmp_path / "x", DrawnCodes(ckpt), other, number=1), "draws codes of pdae"),
        (lambda: task(data, code_std=torch.zeros(8)), "All codes of pdae are alike"),
        (lambda: task(data, ema_decay=1.0), "ema_decay must lie in [0, 1), got 1.0"),
        (lambda: codes(batch_size=0), "data.batch_size is at least 1, got 0"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            make()
    content = {"latent_diffusion": learned[1].described | {"backbone_sha256": "0"}}
    with pytest.raises(UserError, match="was learned with backbone_sha256=0, here it is"):
        learned[1].check_checkpoint(Path("a.ckpt"), content)
