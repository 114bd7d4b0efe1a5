"""Several dictionaries on one stream: the same as each alone, and each goes on alone."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from diffdict.checkpoints import check_resumable
from diffdict.errors import UserError
from diffdict.sae.grid import expand_grid
from diffdict.sae.relu import Relu
from diffdict.sae.topk import TopK

SHORT = {"dead_after": 64}
# what is listed, and everything that a step keeps beside the weights
FAMILIES = {
    "topk": (
        TopK,
        {"scale": [3.0, 9.0], "k": 1, **SHORT},
        {"ema_decay": 0.9, "clip": 0.01, "decay": "linear", "anneal_steps": 11},
    ),
    "relu": (
        Relu,
        {"sparsity": [0.01, 2.0], "scale": 6.0, **SHORT},
        {"clip": 0.01, "resample_every": 128, "pressure_warmup_steps": 4},
    ),
}
NAMES = {"topk": ["scale3", "scale9"], "relu": ["sparsity0p01", "sparsity2"]}


def alone(sae, number):
    """The settings of one of them."""
    return {key: value[number] if isinstance(value, list) else value for key, value in sae.items()}


class Each(pl.Callback):
    """The loss of every dictionary at every step."""

    def __init__(self):
        self.losses = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        for name in pl_module.saes:
            place = "train/loss" if name == "sae" else f"train/{name}/loss"
            self.losses.setdefault(name, []).append(float(trainer.logged_metrics[place]))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, task, fit, tmp_path_factory):
    """Two learned together for 11 steps, saved after 5; and each of them alone."""
    variant, sae, options = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    both, seen = task(variant, sae, **options), Each()
    fit(folder / "broken", 5, task(variant, sae, **options))
    fit(folder / "both", 11, both, callbacks=[seen], limit_val_batches=1.0)
    singles = []
    for number in (0, 1):
        one, own = task(variant, alone(sae, number), **options), Each()
        fit(folder / str(number), 11, one, callbacks=[own], limit_val_batches=1.0)
        singles.append((one, own.losses["sae"]))
    return request.param, folder, (both, seen.losses), singles


def test_side_by_side_is_alone(family):
    """Losses, weights, averages, dead latents and figures, bit by bit."""
    name, _, (both, losses), singles = family
    assert list(both.saes) == NAMES[name]
    for place, (one, own) in zip(NAMES[name], singles, strict=True):
        assert losses[place] == own
        ours = both.state_dict()
        for key, value in one.state_dict().items():
            assert torch.equal(ours[key.replace(".sae.", f".{place}.", 1)], value), key
        figures = one.trainer.callback_metrics
        for figure in ("fvu", "cosine", "l0", "dead", "coherence"):
            both_said = both.trainer.callback_metrics[f"val/{place}/{figure}"]
            assert torch.equal(both_said, figures[f"val/{figure}"])


def test_the_dictionaries_differ_and_some_latents_died(family):
    name, _, (both, losses), _ = family
    first, second = NAMES[name]
    assert losses[first] != losses[second]
    assert any(bool(sae.dead.any()) for sae in both.saes.values()) or both.resampled > 0


@pytest.mark.parametrize("number", [0, 1])
def test_each_goes_on_alone_from_its_own_checkpoint(family, tmp_path, task, fit, number):
    """What was saved at step 5 of both becomes, alone, what was never beside another."""
    name, folder, _, singles = family
    variant, sae, options = FAMILIES[name]
    path = folder / "broken" / "checkpoints" / NAMES[name][number] / "last.ckpt"
    resumed, own = task(variant, alone(sae, number), **options), Each()
    check_resumable(path, resumed)
    fit(tmp_path, 11, resumed, resume=path, callbacks=[own])
    one, losses = singles[number]
    assert own.losses["sae"] == losses[5:]
    theirs = one.state_dict()
    for key, value in resumed.state_dict().items():
        if not key.endswith("frequency"):  # the one alone was validated on its way
            assert torch.equal(theirs[key], value), key


def test_its_checkpoint_keeps_its_own_config(tmp_path, task, fit):
    class Config(pl.Callback):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            checkpoint["config"] = {"sae": {"scale": [3.0, 4.0], "k": 2}, "task": "${x}"}

    fit(tmp_path, 1, task(sae={"scale": [3.0, 4.0]}), callbacks=[Config()])
    both = torch.load(tmp_path / "last.ckpt", weights_only=True)
    own = torch.load(tmp_path / "checkpoints/scale4/last.ckpt", weights_only=True)
    assert both["config"]["sae"]["scale"] == [3.0, 4.0]
    assert own["config"] == {"sae": {"scale": 4.0, "k": 2}, "task": "${x}"}
    assert own["dictionaries"]["sae"]["scale"] == 4.0
    assert len(own["optimizer_states"][0]["param_groups"]) == 1
    assert own["loops"] == both["loops"]


def test_the_shared_checkpoint_names_the_way_to_each(tmp_path, task, fit):
    fit(tmp_path, 1, task(sae={"scale": [3.0, 4.0]}))
    with pytest.raises(UserError, match=r"one of them goes on from its own checkpoints/NAME/last"):
        check_resumable(tmp_path / "last.ckpt", task(sae={"scale": 4.0}))


def test_several_are_all_resumed(tmp_path, task, fit):
    make = {"sae": {"scale": [3.0, 4.0]}, "ema_decay": 0.9}
    whole, resumed = task(**make), task(**make)
    fit(tmp_path / "whole", 8, whole)
    fit(tmp_path / "broken", 4, task(**make))
    fit(tmp_path / "rest", 8, resumed, resume=tmp_path / "broken" / "last.ckpt")
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


def test_the_loss_that_is_no_number_has_a_name(tmp_path, task, fit):
    one = task(Relu, {"sparsity": [0.01, 1e39]}, clip=None)
    with pytest.raises(UserError, match=r"The loss of sparsity1e\+39 is no number at step 0"):
        fit(tmp_path, 3, one)


@pytest.mark.parametrize(
    ("sae", "names"),
    [
        ({"scale": 10.0}, ["sae"]),
        ({"scale": [10]}, ["sae"]),
        ({"scale": [10, 20, 40]}, ["scale10", "scale20", "scale40"]),
        ({"scale": [2.5, 10.0]}, ["scale2p5", "scale10"]),
        ({"latents": [100, 200]}, ["latents100", "latents200"]),
        ({"sparsity": [0.001, 1e-5]}, ["sparsity0p001", "sparsity1e-05"]),
        (
            {"k": [16, 32], "scale": [10, 20]},
            ["scale10_k16", "scale10_k32", "scale20_k16", "scale20_k32"],
        ),
    ],
)
def test_names(sae, names):
    made = expand_grid(partial(TopK, **sae))
    assert list(made) == names
    torch.nn.ModuleDict({name: torch.nn.Identity() for name in made})
