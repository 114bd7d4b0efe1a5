"""Dictionaries on two ranks: the same as one rank that sees both batches, and ranks agree."""

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

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
        return DataLoader([batch.chunk(world)[rank] for batch in self.tokens], batch_size=None)

    def val_dataloader(self):
        return self.train_dataloader()


class Agree(pl.Callback):
    """Every rank ends with the same dictionary."""

    def on_train_end(self, trainer, pl_module):
        state = pl_module.saes.state_dict()
        own = [x.double().flatten() for key, x in state.items() if not key.endswith("density")]
        everyone = pl_module.all_gather(torch.cat(own)).view(trainer.world_size, -1)
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
        for each in one.saes.values():
            each.b_enc.data[::3] = -100.0  # these stay silent
        options = {"limit_val_batches": 1.0, "callbacks": [Agree()], **ranks}
        made[name] = one, fit(tmp_path / name, STEPS, one, Halves(batches), **options).figures
    (whole, figures), (shared, said) = made["one"], made["two"]
    ours, theirs = shared.state_dict(), whole.state_dict()
    for key, value in theirs.items():
        if key.endswith(("silent", "frequency")):
            assert torch.equal(ours[key], value), key
        elif not key.endswith("density"):  # of a rank's own batch
            torch.testing.assert_close(ours[key], value, atol=1e-5, rtol=1e-4)
    assert any(bool(sae.silent.any()) for sae in whole.saes.values())
    judged = [key for key in figures if key.startswith("val/")]
    assert len(judged) == 6 * len(whole.saes)
    assert [said[key] for key in judged] == pytest.approx([figures[key] for key in judged], 1e-4)


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
