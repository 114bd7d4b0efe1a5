"""The last state that a training keeps is that of its last step, however it ends."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from diffdict.results.record import KeepResults
from diffdict.run.interruption.last_step import KeepLastStep

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # full folders, no pictures

EVERY = "every_n_train_steps"


class Saved(pl.Callback):
    """The step of every checkpoint that was written, and asks for an end at one."""

    def __init__(self, end=None):
        self.steps, self.end = [], end

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self.steps.append(checkpoint["global_step"])

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop |= trainer.global_step == self.end


def kept(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("keep", "limits", "steps"),
    [
        ({EVERY: 4}, {"max_steps": 5}, [4, 4, 5, 5]),
        ({EVERY: 4}, {"max_steps": 4}, [4, 4]),
        ({EVERY: 4}, {}, [4, 4, 6, 6]),
        ({EVERY: 9}, {"max_steps": 5}, [5, 5]),
        ({EVERY: 4, "save_top_k": 0}, {"max_steps": 5}, [4, 5]),
        ({EVERY: 4, "save_last": None}, {"max_steps": 5}, [4]),
        ({EVERY: 4, "monitor": "judged"}, {"judged": 0, "max_steps": 5}, [5]),
        ({EVERY: 4, "monitor": "loss"}, {"max_steps": 5}, [4, 4, 5]),
        ({"every_n_epochs": 2}, {"max_steps": 5}, [5, 5]),
        ({"every_n_epochs": 2}, {"max_epochs": 3}, [6, 6, 9, 9]),
        ({}, {}, [3, 3, 6, 6]),
        ({}, {"max_steps": 5}, [3, 3, 5, 5]),
        ({}, {"max_steps": 5, "val_check_interval": 2}, [2, 2, 5, 5]),
    ],
)
def test_the_last_step_is_kept_once(fit, tmp_path, keep, limits, steps):
    """Each number is a file: the one of that step, and last.ckpt."""
    saved = Saved()
    whole = fit(tmp_path, keep=keep, callbacks=[saved], **limits)
    assert saved.steps == steps
    if "save_last" not in keep:
        assert kept(tmp_path)["global_step"] == steps[-1]
        assert torch.equal(kept(tmp_path)["state_dict"]["net.weight"], whole.weight)


@pytest.mark.parametrize(("end", "limits"), [(5, {}), (1, {"max_time": {"microseconds": 1}})])
def test_a_training_that_ends_early_keeps_its_last_step(fit, tmp_path, end, limits):
    """Within an epoch, which a later sitting begins no second time."""
    saved, keep = Saved(end), {EVERY: 4}
    first = fit(tmp_path, keep=keep, max_epochs=9, callbacks=[saved], **limits)
    assert saved.steps[-1] == kept(tmp_path)["global_step"] == end
    assert kept(tmp_path)["epoch"] == end // 3
    rest = fit(tmp_path, keep=keep, max_epochs=9, resume=tmp_path / "last.ckpt")
    whole = fit(tmp_path / "whole", keep=keep, max_epochs=9)
    assert torch.equal(rest.weight, whole.weight)
    assert [one for one in first.told + rest.told if one in whole.told] == whole.told
    assert rest.told == whole.told[-len(rest.told) :]


def test_its_figures_travel_with_the_last_step(fit, tmp_path):
    """Those of the last step, not those of the last multiple."""
    figures = KeepResults("train", "line")
    fit(tmp_path, keep={EVERY: 4}, max_steps=5, callbacks=[figures])
    assert kept(tmp_path)["figures"] == {k: float(v) for k, v in figures.learned.items()}
    assert kept(tmp_path)["figures"].keys() == {"loss", "judged"}


def test_a_run_that_lightning_kept_goes_on(fit, tmp_path):
    """Its state is found under Lightning's own name: the best checkpoint is not forgotten."""
    keep, last = {"monitor": "judged", "mode": "max"}, tmp_path / "last.ckpt"
    fit(tmp_path, keep={**keep, "keeper": ModelCheckpoint}, max_epochs=1)
    (key, theirs), *_ = kept(tmp_path)["callbacks"].items()
    assert key == KeepLastStep(tmp_path, **keep).state_key
    fit(tmp_path, keep=keep, resume=last, max_epochs=2)
    ours = kept(tmp_path)["callbacks"][key]
    assert ours["best_model_path"] == theirs["best_model_path"] == str(tmp_path / "step=3.ckpt")
    assert ours["best_model_score"] == theirs["best_model_score"]
