"""The sheets of a training, where loggers show pictures."""

import io

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffdict.reports.samples.training_sheet import log_sheet

SHEET = Image.fromarray(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))


def test_tensorboard_shows_the_very_pixels(tmp_path):
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    log_sheet(logger, SHEET, step=40)
    logger.experiment.flush()
    seen = EventAccumulator(logger.log_dir).Reload().Images("samples")
    assert [image.step for image in seen] == [40]
    shown = Image.open(io.BytesIO(seen[0].encoded_image_string))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(SHEET))


def test_a_table_of_numbers_does_without(tmp_path):
    log_sheet(pl.loggers.CSVLogger(tmp_path), SHEET, step=40)
    assert not list(tmp_path.rglob("*"))
