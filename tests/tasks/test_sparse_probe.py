"""Few latents beside few channels in a test's own loop."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.features.probes import ProbePictures
from diffdict.tasks.sparse_probe import SparseProbe
from tests.tasks.test_samples import network
from tests.tasks.test_steering import QUIET
from tests.tasks.test_substitution import exact

FACES = partial(ToyFaces, image_size=16, train_pictures=8, test_pictures=3)


def measured(dictionary, timestep=50, block=1, **options):
    data = ProbePictures(
        dataset=FACES,
        backbone=network(),
        source="live",
        timestep=timestep,
        block=block,
        noise={"seed": 0, "device": "cpu"},
        target="pixels",
        batch_size=1,
    )
    classes = list(FACES("train").class_names)
    options = {"class_names": classes, "sizes": (1, 4), **options}
    task = SparseProbe(dictionary, len(classes), **options)
    trainer = pl.Trainer(accelerator="cpu", use_distributed_sampler=False, **QUIET)
    trainer.test(task, data, verbose=False)
    return task


def test_a_latent_of_each_channels_sign_tells_no_less_than_the_channels(tmp_path):
    task = measured(exact(tmp_path / "exact"))
    by_number = {row["k"]: row for row in task.tables()["sparse_probe"]}
    assert set(by_number) == {1, 4}
    assert {"latents", "channels", "pca", "random"} <= set(by_number[1])
    assert all(0 < by_number[1][source] < 1 for source in task.sources)
    rows = {(row["class"], row["source"], row["k"]): row for row in task.rows}
    for (name, source, size), row in rows.items():
        assert len(set(row["features"].split())) == size
        assert row["features"].startswith(rows[name, source, 1]["features"])
    again = measured(exact(tmp_path / "again"))
    assert again.rows == task.rows


def test_components_and_directions_are_read_from_the_channels_sums(tmp_path):
    """All channels span what all components do: so their read-outs are the same."""
    width = network().shapes[1][0]
    task = measured(exact(tmp_path / "exact"), sizes=(width,))
    (row,) = task.tables()["sparse_probe"]
    assert row["pca"] == pytest.approx(row["channels"], abs=0.02)
    x = torch.randn(50, width)
    scores = task.chosen["channels"].scores(x)
    turned = task.chosen["pca"].scores(x @ task.directions["pca"].T)
    assert torch.allclose(scores, turned, atol=1e-3)


def test_tokens_of_another_width_and_sizes_out_of_order_are_refused(tmp_path):
    dictionary = exact(tmp_path / "exact")
    with pytest.raises(UserError, match=r"a single one, as timestep=50"):
        measured(dictionary, timestep=[50, 300])
    with pytest.raises(UserError, match=r"got \[4, 1\]: model.sizes=\[1,2,4\]"):
        measured(dictionary, sizes=(4, 1))
