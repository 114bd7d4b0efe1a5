"""The bar of sampling: it moves with every step, and says what is left as a person would."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl

from diffdict.reports.samples import bar as sample_bar
from diffdict.reports.samples.bar import SampleBar, spoken_time


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.0, "59 s"),
        (61.0, "1 min 1 s"),
        (7500.0, "2 h 5 min"),
        (86400.0, "1 day 0 h"),
        (275000.0, "3 days 4 h"),
    ],
)
def test_time_is_said_in_the_unit_it_is(seconds, said):
    assert spoken_time(seconds) == said


def test_every_step_counts_and_the_rate_tells_what_is_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(sample_bar.time, "monotonic", lambda: now[0])
    module = Mock(spec=pl.LightningModule, steps=10)
    loader = SimpleNamespace(batches=[range(4), range(4, 6)])
    bar = SampleBar()
    trainer = Mock(spec=pl.Trainer, predict_dataloaders=loader)
    bar.on_predict_start(trainer, module)
    shown = bar.bar.tasks[0]
    assert (shown.total, shown.completed) == (6, 0)
    now[0] = 36000.0
    module.stepped(4)  # a fifteenth of all steps in ten hours
    assert shown.completed == pytest.approx(0.4)
    assert shown.fields["left"] == "5 days 20 h left"
    bar.teardown(trainer, module, "predict")
    assert bar.bar is None
