"""Discriminants from sums: those of the pixels themselves, whatever is ignored, in any order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from diffdict.errors import UserError
from diffdict.features.probes import pixel_gram
from diffdict.metrics.probes import NEVER, ProbeSums

CLASSES, IGNORED = 4, 255


def picture(seed, channels=5, grid=(3, 4), size=(12, 8), spread=1.0):
    """Tokens around their class's own mean, and a mask with ignored pixels; class 3 is nowhere."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, 3, size, generator=generator)
    mask[torch.rand(size, generator=generator) < 0.2] = IGNORED
    tokens = torch.randn(grid[0] * grid[1], channels, generator=generator) * spread + 3
    return tokens, grid, mask


def upsampled(tokens, grid, mask):
    """Every labelled pixel's features and class, the long way."""
    maps = tokens.double().T.reshape(1, -1, *grid)
    pixels = F.interpolate(maps, tuple(mask.shape), mode="bilinear")[0].flatten(1).T
    kept = mask.flatten() != IGNORED
    return pixels[kept], mask.flatten()[kept]


def summed(*pictures, channels=5):
    sums = ProbeSums(channels, CLASSES)
    for tokens, grid, mask in pictures:
        sums.update(tokens, *pixel_gram(mask, grid, CLASSES, IGNORED))
    return sums


@pytest.mark.parametrize("grid", [(3, 4), (12, 8), (1, 1), (24, 16)])
def test_sums_are_those_of_upsampled_pixels(grid):
    tokens, grid, mask = picture(0, grid=grid)
    found = summed((tokens, grid, mask)).compute()
    x, y = upsampled(tokens, grid, mask)
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    torch.testing.assert_close(found.second, x.T @ x, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found.cross, x.T @ F.one_hot(y, CLASSES).double(), rtol=1e-6, atol=0)
    assert found.second[-1, -1] == pytest.approx(float((mask != IGNORED).sum()))


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(1, 3))
def test_two_ranks_are_one(seed, split):
    every = [picture(seed + number) for number in range(4)]
    whole = summed(*every).compute()
    one, other = summed(*every[split:]).compute(), summed(*every[:split]).compute()
    torch.testing.assert_close(one.second + other.second, whole.second)
    torch.testing.assert_close(one.cross + other.cross, whole.cross)


def by_the_book(x, y, ridge):
    """Scores of Fisher's discriminant for normal classes of one covariance, from the pixels."""
    x, y = x.numpy(), y.numpy()
    present = np.unique(y)
    means = np.stack([x[y == c].mean(0) for c in present])
    rest = x - means[np.searchsorted(present, y)]
    within = rest.T @ rest / len(x)
    within += ridge * np.diag(np.diag(within))
    inverse = np.linalg.inv(within)
    priors = np.array([(y == c).mean() for c in present])
    far = np.stack([np.einsum("ij,jk,ik->i", x - m, inverse, x - m) for m in means], axis=1)
    return present, np.log(priors) - far / 2


@pytest.mark.parametrize("ridge", [1e-4, 0.1, 10.0])
def test_it_is_the_discriminant_of_the_textbook(ridge):
    pictures = [picture(seed) for seed in range(6)]
    readouts = summed(*pictures).compute().discriminants([ridge])
    pairs = [upsampled(*one) for one in pictures]
    x, y = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    present, theirs = by_the_book(x, y, ridge)
    ours = (x @ readouts.weight[0].double().T + readouts.bias[0].double())[:, present].numpy()
    ours, theirs = (scores - scores[:, :1] for scores in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@settings(max_examples=20)
@given(st.floats(0.01, 100), st.floats(-50, 50))
def test_units_of_a_channel_do_not_matter(factor, shift):
    tokens, grid, mask = picture(1)
    units = torch.tensor([factor, 1.0, 1.0, 1.0, 1.0])
    moved = tokens * units + torch.tensor([shift, 0, 0, 0, 0])
    size = tuple(mask.shape)
    told = [
        summed((x, grid, mask)).compute().discriminants([0.01]).labels(x, grid, size)
        for x in (tokens, moved)
    ]
    assert (told[0] == told[1]).float().mean() > 0.95  # float32 decides ties either way


def test_what_was_not_there_is_never_said_and_dead_channels_say_nothing():
    tokens, grid, mask = picture(2)
    tokens[:, 2] = 7.0
    readouts = summed((tokens, grid, mask)).compute().discriminants([1e-3, 1.0])
    assert readouts.weight.isfinite().all()
    assert (readouts.weight[:, :, 2] == 0).all()
    assert (readouts.bias[:, 3] == NEVER).all()
    assert readouts.labels(tokens, grid, (12, 8)).unique().tolist() == [0, 1, 2]


def test_scores_are_upsampled_as_features_would_be():
    tokens, grid, mask = picture(3)
    readouts = summed((tokens, grid, mask)).compute().discriminants([0.1, 1.0])
    maps = tokens.T.reshape(1, -1, *grid)
    pixels = F.interpolate(maps, tuple(mask.shape), mode="bilinear")[0].flatten(1).T
    labels = readouts.labels(tokens, grid, tuple(mask.shape))
    for weight, bias, own in zip(*readouts, labels, strict=True):
        scores = pixels @ weight.T + bias
        said = scores.gather(1, own.flatten()[:, None])[:, 0]
        torch.testing.assert_close(said, scores.amax(1), rtol=1e-4, atol=1e-4)


def test_no_labelled_pixel_is_a_mistake():
    tokens, grid, mask = picture(4)
    sums = summed((tokens, grid, torch.full_like(mask, IGNORED)))
    with pytest.raises(UserError, match="No labelled pixel was seen"):
        sums.compute().discriminants([1.0])


def rows(seed=0, count=80, channels=5, classes=3):
    """Vectors of whole pictures, each with one class and with several things in it."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (count,), generator=generator)
    shows = torch.rand(count, classes, generator=generator) < 0.4
    vectors = torch.randn(count, channels, generator=generator) + 2
    vectors[:, :classes] += F.one_hot(label, classes) + shows * 0.5
    return vectors, F.one_hot(label, classes).double(), shows.double()


@pytest.mark.parametrize("ridge", [1e-4, 1.0])
def test_pictures_are_rows_of_the_same_discriminant(ridge):
    vectors, one_hot, _ = rows()
    sums = ProbeSums(5, 3)
    for part in (slice(0, 30), slice(30, 80)):
        sums.add_rows(vectors[part], one_hot[part])
    readouts = sums.compute().discriminants([ridge])
    present, theirs = by_the_book(vectors.double(), one_hot.argmax(1), ridge)
    ours = readouts.scores(vectors)[:, 0].double().numpy()[:, present]
    ours, theirs = (scores - scores[:, :1] for scores in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_detectors_are_least_squares_of_each_class():
    vectors, _, shows = rows()
    sums = ProbeSums(5, 3)
    sums.add_rows(vectors, shows)
    scores = sums.compute().detectors([1e-9]).scores(vectors)[:, 0].double().numpy()
    x = np.concatenate([vectors.double().numpy(), np.ones((80, 1))], 1)
    fitted = x @ np.linalg.lstsq(x, shows.numpy(), rcond=None)[0]
    for ours, theirs in zip(scores.T, fitted.T, strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] == pytest.approx(1, abs=1e-6)
    assert scores.mean() == pytest.approx(0, abs=1e-4)


def test_a_detector_has_the_direction_of_the_discriminant_of_two():
    vectors, _, shows = rows()
    alone, two = ProbeSums(5, 3), ProbeSums(5, 2)
    alone.add_rows(vectors, shows)
    two.add_rows(vectors, torch.stack([1 - shows[:, 0], shows[:, 0]], 1))
    direction = alone.compute().detectors([1e-9]).weight[0, 0]
    classes = two.compute().discriminants([1e-9]).weight[0]
    assert float(F.cosine_similarity(direction, classes[1] - classes[0], 0)) > 1 - 1e-5


def test_a_class_that_is_nowhere_is_detected_nowhere():
    vectors, _, shows = rows()
    shows[:, 1] = 0
    sums = ProbeSums(5, 3)
    sums.add_rows(vectors, shows)
    assert (sums.compute().detectors([0.1]).scores(vectors)[:, 0, 1] == 0).all()
