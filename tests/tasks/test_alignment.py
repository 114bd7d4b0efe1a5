"""Alignment in a test's own loop: the same dictionary is itself, another one is not."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from diffdict.data.images import ImageDataModule
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.sae import saelens
from diffdict.sae.topk import TopK
from diffdict.tasks.alignment import Alignment
from tests.tasks.test_samples import network
from tests.tasks.test_steering import NODE, QUIET, exported  # noqa: F401 - a fixture


def aligned(*paths, batch_size=2, **options):
    faces = partial(ToyFaces, image_size=16, test_pictures=4, train_pictures=2)
    data = ImageDataModule(faces, batch_size=batch_size, num_workers=0)
    task = Alignment(network(), [str(path) for path in paths], **options)
    trainer = pl.Trainer(accelerator="cpu", use_distributed_sampler=False, **QUIET)
    trainer.test(task, data, verbose=False)
    return task, {key: float(value) for key, value in trainer.callback_metrics.items()}


def export(folder, sae, timestep=300, **facts):
    net = network()
    card = {"backbone": NODE, "timestep": timestep, "block": 1, "backbone_sha256": net.sha256}
    saelens.export(sae, folder, {**card, **facts})
    return folder


def test_a_dictionary_in_another_order_is_itself_and_its_like_is_the_ceiling(tmp_path, exported):  # noqa: F811
    folder, sae = exported
    again = TopK(sae.d_in, sae.mean, float(sae.token_scale), latents=sae.latents, k=8).eval()
    again.load_state_dict(sae.state_dict())
    again.frequency.copy_(torch.rand(sae.latents))
    mean, scale = sae.mean, float(sae.token_scale)
    other = TopK(sae.d_in, mean, scale, latents=sae.latents, k=8, seed=5).eval()
    later = export(tmp_path / "later", other, timestep=500)
    task, figures = aligned(folder, export(tmp_path / "again", again), later)
    same, *others = task.tables()["alignment"]
    assert same["ceiling"]
    assert same["matched"] == pytest.approx(1, abs=1e-4)
    assert figures["test/ceiling"] == pytest.approx(1, abs=1e-4)
    assert not any(row["ceiling"] for row in others)
    assert figures["test/floor"] < figures["test/ceiling"]
    assert 0 < figures["test/matched"] < 0.95
    partners = task.tables()["partners"]
    assert len(partners) == 3 * sae.latents
    found = [row for row in partners[: sae.latents] if row["correlation"] == row["correlation"]]
    alike = [row["latent"] == row["partner"] for row in found]
    assert sum(alike) > 0.9 * len(found) > 0


def test_what_began_alike_is_refused_unless_it_is_asked_for(tmp_path, exported):  # noqa: F811
    sae = exported[1]
    one = export(tmp_path / "one", sae, seed=3)
    other = export(tmp_path / "other", sae, timestep=500, seed=3)
    with pytest.raises(UserError, match=r"began from one seed \(3\)"):
        aligned(one, other)
    assert len(aligned(one, other, same_seed=True)[0].tables()["alignment"]) == 1
    with pytest.raises(UserError, match="two dictionaries or more"):
        aligned(one)
