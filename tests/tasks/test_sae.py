"""The sae task: exact resume, dead latents, what is logged and judged, and what it refuses."""

import math
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from diffdict.checkpoints import check_resumable
from diffdict.errors import UserError
from diffdict.metrics.sparsity import Sparsity, coherence, density_histogram
from diffdict.results.densities import Densities
from diffdict.sae.relu import Gated, JumpRelu, Relu
from diffdict.sae.topk import BatchTopK, Matryoshka, TopK
from diffdict.training.schedule import Rates

SHORT = {"dead_after": 128}  # latents die within the few batches of a test
# all that a step keeps: averages, dead latents that AuxK or resampling takes up, both warm-ups
RUNS = {
    "topk": (
        TopK,
        {"k": 1, "scale": 12.0, **SHORT},
        {"ema_decay": 0.9, "decay": "cosine", "anneal_steps": 11},
    ),
    "relu": (Relu, {"sparsity": 0.5, **SHORT}, {"resample_every": 192, "warmup_steps": 3}),
    "jumprelu": (JumpRelu, {**SHORT, "threshold": 0.5}, {"pressure_warmup_steps": 8}),
    "batch_topk": (BatchTopK, {"k": 2}, {}),
}


def equal(ours, theirs):
    """Bit by bit."""
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    return [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


@pytest.fixture(scope="module")
def straight(task, fit, tmp_path_factory):
    """`straight("topk")`: 11 steps of epochs that are 6 long, without a break."""
    made = {}

    def learned(name):
        if name not in made:
            variant, sae, options = RUNS[name]
            one = task(variant, sae, **options)
            made[name] = one, fit(tmp_path_factory.mktemp(name), 11, one)
        return made[name]

    return learned


# ---------------------------------------------------------------- resume


@pytest.mark.parametrize(
    ("name", "broken_at"),
    [("topk", 4), ("topk", 6), ("topk", 8), ("relu", 5), ("jumprelu", 7), ("batch_topk", 4)],
)
def test_a_resumed_run_is_the_straight_run(tmp_path, task, fit, straight, name, broken_at):
    """In mid-epoch, at its end and after it: losses, weights, averages, dead latents."""
    whole, seen = straight(name)
    variant, sae, options = RUNS[name]
    fit(tmp_path / "broken", broken_at, task(variant, sae, **options), every=broken_at)
    resumed = task(variant, sae, **options)
    resume = tmp_path / "broken" / f"step={broken_at}.ckpt"
    check_resumable(resume, resumed)
    rest = fit(tmp_path / "resumed", 11, resumed, resume=resume)
    assert rest.losses == seen.losses[broken_at:]
    assert len(set(seen.losses)) == 11
    assert equal(resumed, whole)
    assert (resumed.tokens, resumed.resampled) == (whole.tokens, whole.resampled)
    assert whole.tokens == 11 * 64


def test_the_straight_runs_had_something_to_keep(straight):
    dictionary = straight("topk")[0].saes["sae"]
    assert dictionary.silent.max() >= 128
    assert straight("relu")[0].resampled == 11 * 64 // 192


# ---------------------------------------------------------------- a step


def test_the_dictionary_stays_unit_and_its_gradient_across(tmp_path, task, fit):
    along = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            before[:] = [pl_module.saes["sae"].W_dec.detach().clone()]

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            grad = pl_module.saes["sae"].W_dec.grad
            along.append(float((before[0] * grad).sum(1).abs().max() / grad.norm()))

    before, one = [], task()
    fit(tmp_path, 5, one, callbacks=[Watch()])
    rows = one.saes["sae"].W_dec
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
    assert len(along) == 5
    assert max(along) < 1e-6


def test_a_gradient_is_clipped_to_its_length(tmp_path, task, fit):
    """SGD of rate 1 moves by the gradient: at most by `clip`; the norm said is that before."""
    moved = {}
    for clip in (None, 1e-3):
        one = task(sae={"normalise": "none"}, lr=1.0, optimizer=torch.optim.SGD, clip=clip)
        before = deepcopy(one.saes).state_dict()
        seen = fit(tmp_path / str(clip), 1, one)
        named = one.saes.named_parameters()
        moved[clip] = math.sqrt(
            sum(float((p.detach() - before[k]).square().sum()) for k, p in named)
        )
        assert seen.logged[0]["train/grad_norm"] == pytest.approx(moved[None], rel=1e-4)
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert moved[None] > 2e-3


def test_dead_latents_do_not_depend_on_the_batch_size(tmp_path, task, fit, tokens):
    """With frozen weights, after the same tokens in the same order: the window is in tokens."""
    dead = {}
    for batch_size in (32, 64):
        data = tokens(batch_size=batch_size, window=10_000)
        frozen = {"lr": 0.0, "optimizer": torch.optim.SGD, "data": data}
        one = task(sae={"k": 1, "scale": 12.0, "dead_after": 64}, **frozen)
        fit(tmp_path / str(batch_size), 192 // batch_size, one, data)
        dead[batch_size] = one.saes["sae"].dead
    assert torch.equal(dead[32], dead[64])
    assert 0 < dead[64].sum() < 96


def test_resampling_takes_up_dead_latents_at_its_tokens(tmp_path, task, fit):
    """Every 192 tokens, at tokens of the batch, with the optimizer's memory of them gone."""
    revived = {}

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.batch = batch.clone()
            self.was = pl_module.saes["sae"].W_dec.detach().clone()

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            sae = pl_module.saes["sae"]
            changed = ((sae.W_dec - self.was).norm(dim=1) > 0.3).nonzero().flatten()
            if len(changed):
                revived[trainer.global_step] = changed
                x = F.normalize(sae.standard(self.batch) - sae.b_dec, dim=1)
                assert ((x @ sae.W_dec[changed].T).amax(0) > 0.999).all()
                moments = trainer.optimizers[0].state[sae.W_dec]["exp_avg"]
                assert (moments[changed] == 0).all()
                assert (moments != 0).any()
                assert (sae.silent[changed] == 0).all()

    relu = {"sparsity": 2.0, "dead_after": 100, "scale": 6.0}
    one = task(Relu, relu, resample_every=192, lr=1e-3)
    with torch.no_grad():
        one.saes["sae"].b_enc[::2] = -100.0  # these say nothing
    fit(tmp_path, 9, one, callbacks=[Watch()])
    assert list(revived) == [3]  # 192 tokens; later there are none
    assert set(range(0, 48, 2)) <= set(revived[3].tolist())


def test_nothing_is_revived_once_the_rate_falls(tmp_path, task, fit):
    falling = {"decay": "linear", "decay_share": 1.0, "anneal_steps": 6}
    one = task(Relu, {"dead_after": 64}, resample_every=128, lr=1e-4, **falling)
    with torch.no_grad():
        one.saes["sae"].b_enc.fill_(-100.0)
    fit(tmp_path, 6, one)
    assert one.saes["sae"].dead.all()


def test_the_centre_may_start_at_the_median(tmp_path, task, fit):
    starts = {}
    for centre in ("mean", "median"):
        one = task(sae={"centre": centre}, lr=0.0, optimizer=torch.optim.SGD, ema_decay=0.5)
        fit(tmp_path / centre, 1, one)
        starts[centre] = one.saes["sae"].b_dec
        assert torch.equal(one.ema["sae"].b_dec, starts[centre])
    assert starts["mean"].abs().max() == 0
    assert starts["median"].norm() > 0.05


def test_rates_rise_and_fall():
    rates = Rates(4, 2, "linear", 0.5, 0)
    rates.set_end(lambda: 8)
    assert [rates.learning(step) for step in range(9)] == [
        0.25,
        0.5,
        0.75,
        1,
        1,
        0.75,
        0.5,
        0.25,
        0,
    ]
    assert [rates.pressure(step) for step in range(3)] == [0.5, 1.0, 1.0]
    cosine = Rates(0, 0, "cosine", 1.0, 4)
    cosine.set_end(lambda: math.inf)
    assert [round(cosine.learning(step), 3) for step in (0, 1, 2, 4, 9)] == [1, 0.854, 0.5, 0, 0]
    with pytest.raises(
        UserError, match=r"model\.decay=cosine needs an end: say trainer\.max_steps="
    ):
        Rates(0, 0, "cosine", 1.0, 0).set_end(lambda: math.inf)
    constant = Rates(0, 0, "none", 0.2, 0)
    constant.set_end(lambda: pytest.fail("nobody asked"))
    assert constant.learning(10**9) == 1


def test_the_dense_path_is_compiled_once_the_pressure_stands(tmp_path, task, fit, monkeypatch):
    """Each value of a pressure that moves would be compiled anew, up to torch's limit."""
    one, compiled = task(Relu, {"scale": [2, 3]}, compile=True, pressure_warmup_steps=3), []
    monkeypatch.setattr(Relu, "compile_dense", lambda sae: compiled.append(one.global_step))
    fit(tmp_path, 5, one)
    assert compiled == [2, 2]
    fit(tmp_path / "topk", 1, task(compile=True))


def test_bfloat16_stays_near_float32(tmp_path, task, fit):
    exact = fit(tmp_path / "a", 5, task())
    one = task()
    rough = fit(tmp_path / "b", 5, one, precision="bf16-mixed")
    assert rough.losses == pytest.approx(exact.losses, rel=0.05)
    assert rough.losses != exact.losses
    assert {p.dtype for p in one.parameters()} == {torch.float32}


def test_accumulation_is_a_bigger_batch(tmp_path, task, fit, tokens):
    whole, parts = (task(optimizer=torch.optim.SGD, lr=0.1) for _ in range(2))
    fit(tmp_path / "whole", 4, whole, tokens(batch_size=64))
    fit(tmp_path / "parts", 4, parts, tokens(batch_size=32), accumulate_grad_batches=2)
    theirs = dict(parts.named_parameters())
    for key, value in whole.named_parameters():
        torch.testing.assert_close(theirs[key], value, atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------- figures


def test_what_is_logged(tmp_path, task, fit):
    seen = fit(tmp_path, 12, task(Relu, SHORT), limit_val_batches=1.0, log_every_n_steps=2)
    names = ["loss", "mse", "sparsity", "fvu", "l0", "dead", "grad_norm", "tokens_per_s", "lr"]
    assert {f"train/{name}" for name in [*names, "pressure"]} <= set(seen.logged[-1])
    figures = ["fvu", "cosine", "l0", "dead", "coherence", "coherence_max"]
    assert {f"val/{name}" for name in figures} <= set(seen.logged[-1])
    assert all(math.isfinite(value) for value in seen.logged[-1].values())
    last = seen.logged[-1]
    parts = last["train/mse"] + last["train/sparsity"]
    assert last["train/loss"] == pytest.approx(parts, rel=1e-5)
    assert last["train/loss"] == pytest.approx(seen.losses[-1], rel=1e-6)
    assert seen.logged[0] == {}, "nothing is measured between the steps that log"


def test_only_every_nth_step_is_logged_and_with_0_none(tmp_path, task, fit, logging, logged_steps):
    every, expected = logging
    learner = task(Relu, SHORT)
    figures, norms = (logged_steps(learner, f"train/{name}") for name in ("lr", "grad_norm"))
    fit(tmp_path, 7, learner, log_every_n_steps=every)
    assert figures == norms == expected


def test_gamma_is_the_off_centre_norm(tmp_path, task, fit, tokens):
    data = tokens(val_pictures=0)
    x = data.sources.open("train", torch.device("cpu")).maps(range(26))[0].flatten(0, 1).double()
    gamma = float(x.mean(0).norm() / x.var(0, unbiased=False).sum().sqrt())
    one, logger = task(data=data, dims=data.facts["dims"] * 2), pl.loggers.CSVLogger(tmp_path)
    fit(tmp_path, 3, one, data, logger=logger)
    logger.save()
    rows = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    said = [dict(zip(rows[0].split(","), row.split(","), strict=True)) for row in rows[1:]]
    for name in ("train/gamma", "train/gamma_t50_b2"):
        (once,) = [row[name] for row in said if row[name]]
        assert float(once) == pytest.approx(gamma, rel=1e-5)


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_judging_is_that_of_the_dictionary(tmp_path, task, fit, tokens, ema_decay):
    """The figures of all held-out tokens at once; of the average where there is one."""
    one, data = task(ema_decay=ema_decay, lr=0.1), tokens()
    seen = fit(tmp_path, 6, one, data, limit_val_batches=1.0, callbacks=[Densities()])
    sae = one.evaluated["sae"]
    assert (sae is one.saes["sae"]) == (ema_decay is None)
    x = torch.cat(list(data.val_dataloader()))
    codes = sae.encode_sparse(x)
    metric = Sparsity(sae.d_in, sae.latents, data.facts["mean"])
    metric.update(x, sae.decode(codes), codes.latents, codes.values)
    figures = metric.compute()
    trainer = one.trainer.callback_metrics
    for name in ("fvu", "cosine", "l0", "dead"):
        assert float(trainer[f"val/{name}"]) == pytest.approx(
            float(getattr(figures, name)), rel=1e-6
        )
    assert float(trainer["val/coherence"]) == pytest.approx(coherence(sae.W_dec).mean_max)
    assert len(x) == 2 * 16
    assert len(seen.losses) == 6
    for kept in (sae, one.saes["sae"]):
        torch.testing.assert_close(kept.frequency, figures.density.float())
    with np.load(tmp_path / "density.npz") as file:
        assert file["sae"].tolist() == sae.frequency.tolist()
        assert file["sae_counts"].tolist() == density_histogram(sae.frequency).counts.tolist()


def test_the_average_follows_its_recursion(tmp_path, task, fit):
    one = task(ema_decay=0.9, sae={"normalise": "none"})
    mine, decays = [one.saes["sae"].W_enc.detach().double()], [0.1, 2 / 11, 3 / 12, 4 / 13]

    class Recursion(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            now, decay = pl_module.saes["sae"].W_enc.detach().double(), decays[batch_idx]
            mine.append(decay * mine[-1] + (1 - decay) * now)

    fit(tmp_path, 4, one, callbacks=[Recursion()])
    torch.testing.assert_close(one.ema["sae"].W_enc.double(), mine[-1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("variant", [Relu, Gated, JumpRelu, TopK, BatchTopK, Matryoshka])
def test_every_variant_learns(tmp_path, task, fit, variant):
    """From the first epoch to the fourth, by the figure that a sweep would minimise."""
    sae = {"groups": [0.25, 0.75], "k": 2} if variant is Matryoshka else {}
    one = task(variant, {"scale": 4.0, **sae}, lr=3e-2, resample_every=200)
    seen = fit(tmp_path, 24, one)
    first, last = seen.logged[0]["train/fvu"], seen.logged[-1]["train/fvu"]
    assert last < 0.8 * first
