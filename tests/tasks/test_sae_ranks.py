"""Dictionaries on two ranks: the same as one rank that sees both batches, and ranks agree."""

import pytest
import pytorch_lightning as pl
import torch

from diffdict.sae.relu import Relu
from diffdict.sae.topk import TopK

pytestmark = pytest.mark.faults

STEPS, BATCH = 6, 64


class Halves(pl.LightningDataModule):
    """The same batches for any number of ranks: each sees its part."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def train_dataloader(self):
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return [batch.chunk(world)[rank].clone() for batch in self.tokens]

    def val_dataloader(self):
        return self.train_dataloader()


class Agree(pl.Callback):
    """Every rank ends with the same dictionary."""

    def on_train_end(self, trainer, pl_module):
        state = [value.double().flatten() for value in pl_module.saes.state_dict().values()]
        everyone = pl_module.all_gather(torch.cat(state)).view(trainer.world_size, -1)
        assert (everyone == everyone[0]).all()


@pytest.fixture(scope="module")
def batches(tokens):
    loader = tokens(batch_size=BATCH).train_dataloader()
    return torch.stack([batch.clone() for batch in loader][:STEPS])


@pytest.mark.parametrize(
    ("variant", "sae"),
    [
        (TopK, {"k": 1, "scale": [3.0, 9.0], "centre": "mean"}),
        (Relu, {"sparsity": 1.0, "dead_after": 128}),
    ],
)
def test_two_ranks_are_one_with_both_batches(tmp_path, task, fit, batches, variant, sae):
    """SGD, for Adam magnifies rounding; dead latents and figures of the world, exactly."""
    made = {}
    for name, ranks in (("one", {}), ("two", {"strategy": "ddp_fork", "devices": 2})):
        one = task(variant, sae, optimizer=torch.optim.SGD, lr=0.1)
        options = {"limit_val_batches": 1.0, "callbacks": [Agree()], **ranks}
        fit(tmp_path / name, STEPS, one, Halves(batches), **options)
        made[name] = one
    ours, theirs = made["two"].state_dict(), made["one"].state_dict()
    for key, value in theirs.items():
        if key.endswith(("silent", "frequency")):
            assert torch.equal(ours[key], value), key
        elif not key.endswith("density"):  # of a rank's own batch
            torch.testing.assert_close(ours[key], value, atol=1e-5, rtol=1e-4)
    assert any(bool(sae.silent.any()) for sae in made["one"].saes.values())
    figures = made["one"].trainer.callback_metrics
    for key, value in made["two"].trainer.callback_metrics.items():
        if key.startswith("val/"):
            assert float(value) == pytest.approx(float(figures[key]), rel=1e-4), key


def test_ranks_revive_the_same_latents_alike(tmp_path, task, fit, batches):
    one = task(Relu, {"dead_after": BATCH, "centre": "median"}, resample_every=2 * BATCH)
    with torch.no_grad():
        one.saes["sae"].b_enc[::2] = -100.0
    options = {"strategy": "ddp_fork", "devices": 2, "callbacks": [Agree()]}
    fit(tmp_path, STEPS, one, Halves(batches), **options)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["tokens"] == STEPS * BATCH
    assert kept["resampled"] == STEPS // 2
    assert (kept["state_dict"]["saes.sae.b_enc"] > -50).all()
