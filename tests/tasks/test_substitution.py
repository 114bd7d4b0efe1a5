"""Substitution in a test's own loop: exact dictionaries recover all, and passes are shared."""

import json

import pytest
import pytorch_lightning as pl
import torch

from diffdict.data.images import ImageDataModule
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.sae import saelens
from diffdict.sae.relu import Relu
from diffdict.tasks.substitution import MapSubstitution
from tests.tasks.test_samples import network
from tests.tasks.test_steering import NODE, QUIET, exported  # noqa: F401 - a fixture


def faces(split):
    return ToyFaces(split, image_size=16, test_pictures=6)


def exact(folder, block=1, **card):
    """A dictionary of both signs of every channel: it gives all tokens back."""
    net = network()
    width = net.shapes[block][0]
    sae = Relu(width, latents=2 * width, standardise=False).eval()
    eye = torch.eye(width)
    with torch.no_grad():
        sae.W_dec.copy_(torch.cat([eye, -eye]))
        sae.W_enc.copy_(torch.cat([eye, -eye]))
    facts = {"backbone": NODE, "timestep": [50, 300], "block": block, "mix": "stack"}
    saelens.export(sae, folder, {**facts, "backbone_sha256": net.sha256, **card})
    return str(folder)


def measured(dictionary, batch_size=3, **options):
    task = MapSubstitution(network(), dictionary, mean_pictures=3, **options)
    data = ImageDataModule(faces, batch_size=batch_size, num_workers=0)
    trainer = pl.Trainer(accelerator="cpu", use_distributed_sampler=False, **QUIET)
    trainer.test(task, data, verbose=False)
    return task, {key: float(value) for key, value in trainer.callback_metrics.items()}


def test_an_exact_dictionary_recovers_everything(tmp_path):
    task, figures = measured(exact(tmp_path / "exact"))
    assert {"test/recovered", "test/recovered_x0", "test/error_excess"} <= figures.keys()
    assert task.timesteps == [50, 300]
    rows = task.tables()["substitution"]
    places = [(row["timestep"], row["of"]) for row in rows]
    assert places == [(50, "eps"), (50, "x0"), (300, "eps"), (300, "x0")]
    for row in rows:
        largest = max(abs(row["change_mean"]), abs(row["change_zero"]))
        assert abs(row["change_reconstruction"]) < 1e-3 * largest
        assert row["loss"] > 0


def test_batches_do_not_matter_and_a_typed_timestep_is_measured(tmp_path, exported):  # noqa: F811
    rows = []
    for size in (2, 6):
        task, _ = measured(str(exported[0]), size, timestep=[120])
        rows.append(task.tables()["substitution"][0])
    assert rows[0]["timestep"] == 120
    for key in ("loss", "change_reconstruction", "change_mean", "change_random"):
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-3, abs=1e-7)


def test_several_edits_share_what_lies_below_them():
    net, x, t = network(), torch.randn(2, 3, 16, 16), torch.tensor([5, 7])
    edits = [None, {1: lambda h, t: 2 * h}, {0: lambda h, t: h + 1, 1: lambda h, t: -h}, {}]
    for ours, each in zip(net.forward_each(x, t, None, edits), edits, strict=True):
        assert torch.equal(ours, net(x, t, None, each))


def test_concatenated_maps_and_foreign_cards_are_refused(tmp_path, exported):  # noqa: F811
    net = network()
    width = 2 * net.shapes[1][0]
    sae = Relu(width, latents=8).eval()
    card = {"backbone": NODE, "timestep": [50, 300], "block": 1, "mix": "concat"}
    saelens.export(sae, tmp_path / "concat", card)
    with pytest.raises(UserError, match=r"data.mix=stack, or at one timestep"):
        MapSubstitution(net, str(tmp_path / "concat"))
    with pytest.raises(UserError, match="between 0 and 999, got 1000"):
        MapSubstitution(net, str(exported[0]), timestep=1000)
    path = tmp_path / "concat/card.json"
    facts = json.loads(path.read_text())
    for change, words in (
        ({"block": None}, "no card that says its block"),
        ({"timestep": [50]}, f"give tokens of width {width // 2}|takes tokens of width"),
        ({"timestep": None, "keep": 1}, "without timesteps"),
    ):
        own = {**facts, **change}
        own = {k: v for k, v in own.items() if v is not None or "keep" in own}
        path.write_text(json.dumps(own))
        with pytest.raises(UserError, match=words):
            MapSubstitution(net, str(tmp_path / "concat"))
