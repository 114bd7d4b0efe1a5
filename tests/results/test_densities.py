"""Densities of latents: the file, and loggers that show histograms, hold the same counts."""

from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import wandb  # what a logger of that kind has always imported  # noqa: F401
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffdict.metrics.sparsity import density_histogram
from diffdict.reports.subjects import MeasuredDictionary
from diffdict.results.densities import Densities


class Wandb(pl.loggers.WandbLogger):
    """Keeps what it is told."""

    def __init__(self):
        self.told = {}

    def log_metrics(self, metrics, step=None):
        self.told |= metrics


@pytest.fixture
def densities():
    torch.manual_seed(0)
    return {"scale2": 10 ** (-4 * torch.rand(50)), "scale4": torch.zeros(7)}


def validated(folder, densities, loggers, **more):
    saes = {name: SimpleNamespace(frequency=value) for name, value in densities.items()}
    module = Mock(spec=pl.LightningModule)
    module.dictionaries = lambda: {n: MeasuredDictionary(sae, None) for n, sae in saes.items()}
    facts = {"sanity_checking": False, "is_global_zero": True, "global_step": 30, **more}
    trainer = Mock(spec=pl.Trainer, default_root_dir=folder, loggers=loggers, **facts)
    Densities().on_validation_end(trainer, module)


def test_file_and_loggers_say_the_same(tmp_path, densities):
    board, page = pl.loggers.TensorBoardLogger(tmp_path, "", ""), Wandb()
    validated(tmp_path, densities, [board, page, pl.loggers.CSVLogger(tmp_path)])
    board.experiment.flush()
    drawn = EventAccumulator(str(tmp_path), {"histograms": 0}).Reload()
    with np.load(tmp_path / "density.npz") as file:
        for name, density in densities.items():
            expected = density_histogram(density)
            assert file[name].tolist() == density.tolist()
            assert file[f"{name}_counts"].tolist() == expected.counts.tolist()
            assert file["edges"].tolist() == expected.edges.tolist()
            told = page.told[f"val/{name}/density"]
            assert list(told.histogram) == expected.counts.tolist()
            (event,) = drawn.Histograms(f"val/{name}/density")
            assert event.step == 30
            counts = event.histogram_value.bucket
            assert sum(counts) == len(density)
            assert [n for n in counts if n] == [n for n in expected.counts.tolist() if n]


def test_a_single_dictionary_has_no_name_in_its_plot(tmp_path):
    page = Wandb()
    validated(tmp_path, {"sae": torch.rand(5)}, [page])
    assert list(page.told) == ["val/density"]


@pytest.mark.parametrize("when", [{"sanity_checking": True}, {"is_global_zero": False}])
def test_nothing_is_written_then(tmp_path, densities, when):
    validated(tmp_path, densities, [], **when)
    assert not list(tmp_path.iterdir())
