"""What the sae task refuses, and what it says then; nothing broken is ever kept."""

import math

import pytest
import pytorch_lightning as pl
import torch

from diffdict.checkpoints import check_resumable
from diffdict.errors import UserError
from diffdict.sae.topk import BatchTopK

SHORT = {"dead_after": 128}


@pytest.mark.parametrize(
    ("sae", "said"),
    [
        ({"k": 3}, r"learned with sae\.k=2, here it is 3: resume with sae\.k=2"),
        ({"dead_after": 7}, r"sae\.dead_after=128, here it is 7"),
        ({"scale": [3.0, 4.0]}, r"sae\.scale=3\.0, here it is \[3\.0, 4\.0\]"),
    ],
)
def test_other_settings_are_refused(tmp_path, task, fit, sae, said):
    fit(tmp_path, 1, task(sae=SHORT))
    with pytest.raises(UserError, match=said):
        check_resumable(tmp_path / "last.ckpt", task(sae={**SHORT, **sae}))


def test_settings_that_an_earlier_version_did_not_know_are_their_defaults(tmp_path, task, fit):
    fit(tmp_path, 1, task())
    path, key = tmp_path / "last.ckpt", "apply_b_dec_to_input"
    assert key not in torch.load(path, weights_only=True)["dictionaries"]["sae"]
    check_resumable(path, task(sae={key: True}))
    with pytest.raises(UserError, match=rf"sae\.{key}=true, here it is False: .*sae\.{key}=true"):
        check_resumable(path, task(sae={key: False}))


def test_another_variant_is_refused(tmp_path, task, fit):
    fit(tmp_path, 1, task())
    with pytest.raises(UserError, match=r"sae\._target_=diffdict\.sae\.topk\.TopK.*BatchTopK"):
        check_resumable(tmp_path / "last.ckpt", task(BatchTopK, {"k": 2}))


def test_tokens_of_another_width_are_refused(tmp_path, task, fit):
    fit(tmp_path, 1, task())
    wide = task()
    wide.d_in = 12
    with pytest.raises(UserError, match=r"Tokens here are 12 wide.*learned on tokens of width 8"):
        check_resumable(tmp_path / "last.ckpt", wide)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_good(tmp_path, task, fit):
    one = task(lr=1e30, sae={"normalise": "none"}, clip=None)
    with pytest.raises(UserError) as caught:
        fit(tmp_path, 50, one, every=1)
    said = str(caught.value)
    assert "model.optimizer.lr=1e+29 (it was 1e+30)" in said
    assert "no number" in said
    step = int(said.split("step ")[1].split(",")[0].split(":")[0])
    assert 0 < step < 50
    assert f"the last good checkpoint is {tmp_path / 'last.ckpt'}" in said
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] <= step
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_tokens_that_are_no_numbers_are_named(tmp_path, task, fit):
    class Spoil(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batch[0, 0] = math.nan if batch_idx == 2 else batch[0, 0]

    with pytest.raises(UserError, match=r"Step 2 met tokens that are no numbers.*diffdict verify"):
        fit(tmp_path, 5, task(), callbacks=[Spoil()])
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("sae", "options", "said"),
    [
        ({"k": 25}, {}, r"sae\.k must lie in 1\.\.24.*got 25.*lower sae\.k or raise sae\.scale"),
        ({"scale": 0.01}, {}, r"at least 1 latent, got sae\.scale=0\.01 of 8.*raise"),
        ({"scale": "wide"}, {}, r"sae\.scale is a number or a list of different numbers.*wide"),
        ({"k": [2, 2]}, {}, r"sae\.k is a number or a list of different numbers, got \[2, 2\]"),
        ({"k": []}, {}, r"sae\.k is a number or a list"),
        ({"scale": [2, 4], "latents": 9}, {}, r"sae\.latents=9 counts instead of sae\.scale"),
        ({}, {"ema_decay": 1.0}, r"model\.ema_decay must lie in \[0, 1\), got 1\.0"),
        ({}, {"clip": -1.0}, r"model\.clip must be positive"),
        ({}, {"resample_every": 0}, r"model\.resample_every counts tokens"),
        ({}, {"decay": "sudden"}, r"model\.decay is none, linear, cosine, poly, got 'sudden'"),
        ({}, {"decay_share": 0.0}, r"model\.decay_share must lie in \(0, 1\]"),
    ],
)
def test_wrong_settings_are_said_at_once(task, sae, options, said):
    with pytest.raises(UserError, match=said):
        task(sae=sae, **options)


@pytest.mark.parametrize(
    ("trainer", "model", "said"),
    [
        ({"gradient_clip_val": 0.5}, {}, r"say model\.clip=0\.5, not trainer\.gradient_clip_val"),
        ({"precision": "bf16-true"}, {}, r"trainer\.precision=bf16-true does not serve here"),
        ({}, {"lr": -1.0}, r"model\.optimizer\.lr is a number from 0 on, got -1"),
    ],
)
def test_a_trainer_that_does_not_fit_is_refused(tmp_path, task, fit, trainer, model, said):
    with pytest.raises(UserError, match=said):
        fit(tmp_path, 2, task(**model), **trainer)


def test_fewer_tokens_than_a_batch(tmp_path, task, fit, tokens):
    with pytest.raises(UserError, match=r"384 training tokens fill no batch of 1000.*batch_size"):
        fit(tmp_path, 2, task(), tokens(batch_size=1000))


def test_features_that_were_never_made(tokens):
    with pytest.raises(UserError, match=r"No features of sums.*python extract\.py.*timestep=999"):
        _ = tokens(timestep=999).facts
