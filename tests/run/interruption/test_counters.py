"""Trainings stopped at every moment go on as if nothing had been: steps, epochs, validations."""

from itertools import count

import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # full folders, no pictures

EVERY = "every_n_train_steps"
RUNS = {  # of two epochs of three steps
    "by epochs": {},
    "by epochs and steps": {"max_steps": 100},
    "kept at an epoch's last step": {"keep": {EVERY: 3}, "max_steps": 100},
    "kept when it is stopped": {"keep": {EVERY: 50}},
    "kept when it is stopped, by steps": {"keep": {EVERY: 50}, "max_steps": 100},
    "judged within epochs": {"keep": {EVERY: 50}, "val_check_interval": 2},
    "judged every other step": {
        "keep": {EVERY: 3},
        "max_steps": 100,
        "val_check_interval": 2,
        "check_val_every_n_epoch": None,
    },
    "never judged": {"keep": {EVERY: 3}, "max_steps": 100, "judged": 0},
    "never judged, by epochs": {"keep": {EVERY: 3}, "judged": 0},
}


def check(sittings, whole):
    """Together they are the one that nobody disturbed; what came twice was the same twice."""
    assert list(dict.fromkeys(one for fit in sittings for one in fit.told)) == whole.told
    assert torch.equal(sittings[-1].weight, whole.weight)
    assert sittings[-1].epochs == whole.epochs


@pytest.mark.parametrize("name", RUNS)
def test_a_training_stopped_at_any_moment_is_the_straight_one(fit, tmp_path, name):
    """In mid-epoch, on its last batch, in a validation, at the very end of the last epoch."""
    whole = fit(tmp_path / "whole", **RUNS[name])
    assert [what for what, *_ in whole.told].count("epoch") == whole.epochs == 2
    for moment in range(whole.moments):
        folder = tmp_path / str(moment)
        first = fit(folder, stop=moment, **RUNS[name])
        assert first.told == whole.told[: len(first.told)]
        check([first, fit(folder, resume=folder / "last.ckpt", **RUNS[name])], whole)


@pytest.mark.parametrize("name", RUNS)
def test_a_training_stopped_again_and_again_is_the_straight_one(fit, tmp_path, name):
    whole, sittings = fit(tmp_path / "whole", **RUNS[name]), []
    for sitting in count():
        resume = tmp_path / "last.ckpt" if sittings else None
        stop = 2 + sitting % 2  # a validation has two batches: one moment alone would be no way on
        sittings.append(fit(tmp_path, stop=stop, resume=resume, **RUNS[name]))
        if sittings[-1].moments <= stop:
            break
    assert len(sittings) > 2
    check(sittings, whole)


@pytest.mark.parametrize("steps", range(1, 7))
@pytest.mark.parametrize("every", [1, 2, 4, None])
def test_a_training_that_ended_goes_on_to_a_later_end(fit, tmp_path, steps, every):
    """An epoch that `max_steps` left in its midst is finished first, and is one."""
    keep = {EVERY: every} if every else {}
    whole = fit(tmp_path / "whole", keep=keep, max_steps=100)
    fit(tmp_path, keep=keep, max_steps=steps)
    last = tmp_path / "last.ckpt"
    kept = torch.load(last, weights_only=True)
    assert (kept["global_step"], kept["epoch"]) in [(steps, steps // 3), (steps, (steps - 1) // 3)]
    again = fit(tmp_path, keep=keep, max_steps=steps, resume=last)
    assert not again.told
    assert torch.load(last, weights_only=True)["global_step"] == steps
    rest = fit(tmp_path, keep=keep, max_steps=100, resume=last)
    assert [what for what, *_ in rest.told].count("batch") == 6 - steps
    assert rest.told == whole.told[len(whole.told) - len(rest.told) :]
    assert torch.equal(rest.weight, whole.weight)
    assert rest.epochs == 2
