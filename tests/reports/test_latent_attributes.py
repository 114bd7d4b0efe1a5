"""Latents that tell attributes, and parts of codes that explain latents: planted ones are found."""

import numpy as np
import pytest
import torch

from diffdict.data.attributes import Attribute
from diffdict.metrics.attributes.best_predictors import best_predictors
from diffdict.metrics.attributes.explained_by_parts import CodedPictures, explained_by_parts
from diffdict.reports.latent_attributes import code_rows, predictor_rows
from tests.inputs import normal

ATTRIBUTES = [Attribute("hat", "binary", "same"), Attribute("yaw", "number", "negated")]
BINARY = torch.tensor([True, False])


def planted(seed, pictures=80):
    """Feature 3 is the hat, feature 5 minus the yaw, a little noisy; the rest is noise."""
    features = normal(seed, (pictures, 8))
    truth = torch.stack([(features[:, 3] > 0.5).float(), -features[:, 5]], dim=1)
    return features + 0.01 * normal(seed + 1, (pictures, 8)), truth


def test_the_planted_features_are_found_and_measured_on_others():
    train, test = planted(1), planted(3)
    test[1][::5, 0] = torch.nan  # unknown: counts nowhere
    found = best_predictors(train, test, BINARY)
    assert found.feature.tolist() == [3, 5]
    assert found.sign.tolist() == [1, -1]
    assert (found.figure > 0.98).all()
    shuffled = best_predictors(train, (normal(9, (80, 8)), test[1]), BINARY)
    assert (shuffled.figure < 0.6).all()


def test_rows_name_latent_pooling_and_baselines():
    pooled, truth = {}, {}
    for split, seed in (("train", 1), ("test", 3)):
        features, truth[split] = planted(seed)
        pooled[split] = {"latents": features, "random": normal(seed + 20, (80, 8))}
    mean_hat, mean_yaw, hat, yaw = predictor_rows(ATTRIBUTES, pooled, truth)
    assert (hat["latent"], hat["pooled"], hat["sign"]) == (3, "mean", 1)
    assert (yaw["latent"], yaw["pooled"], yaw["sign"]) == (1, "max", -1)  # of four latents
    assert hat["latents"] > 0.95 > 0.8 > hat["random"]
    assert mean_hat["attribute"] == "mean of 1"
    assert mean_yaw["train"] == yaw["train"]
    assert hat["chance"] == pytest.approx(float(truth["test"][:, 0].mean()))


def test_shares_explained_are_those_of_least_squares():
    codes, more = normal(1, (200, 6)), normal(2, (100, 6))
    weight = torch.zeros(6, 3)
    weight[:2, 0], weight[4, 1] = 1, 2  # the third is noise
    noise = normal(3, (300, 3))
    train = CodedPictures(codes, codes @ weight + 0.3 * noise[:200])
    test = CodedPictures(more, more @ weight + 0.3 * noise[200:])
    parts = [slice(0, 6), slice(0, 2), slice(2, 6)]
    shares = explained_by_parts(train, test, parts, ridges=[1e-9])
    for row, part in zip(shares, parts, strict=True):
        x = np.c_[codes[:, part].double().numpy(), np.ones(200)]
        solved = np.linalg.lstsq(x, train.numbers.double().numpy(), rcond=None)[0]
        y = test.numbers.double().numpy()
        left = y - np.c_[more[:, part].double().numpy(), np.ones(100)] @ solved
        wanted = 1 - (left**2).mean(0) / y.var(0)
        np.testing.assert_allclose(row, wanted, atol=1e-6)
    assert shares[1, 0] > 0.9 > 0.1 > shares[2, 0]
    assert shares[2, 1] > 0.9 > 0.1 > shares[1, 1]


def test_rows_of_codes_leave_silent_latents_out():
    codes = [CodedPictures(normal(i, (60, 4)), normal(i + 5, (60, 4))) for i in (1, 2)]
    for pictures in codes:
        pictures.numbers[:, 0] = pictures.codes[:, 1]
        pictures.numbers[:, 2] = 0
    mean, first, *rest = code_rows(*codes, {"code": slice(0, 4), "stage0": slice(0, 2)})
    assert mean["latent"] == "mean of 3"
    assert (first["latent"], first["pooled"]) == (0, "mean")
    assert first["stage0"] > 0.99
    assert len(rest) == 2
