"""Draws of many generators at once are those of numpy's own, one by one."""

import numpy as np
import pytest

from diffdict.data.batches.batch_draws import first_draws

LAST = 2**32 - 1
KEYS = [(0, 0), (0, 1), (1, 0), (3, 49_999), (LAST, LAST)]


@pytest.mark.parametrize("most", [1, 2, 9, 65, 3 * 2**30])  # the last is often drawn again
@pytest.mark.parametrize("seed", [0, 1, LAST, 2**40])
def test_they_are_numpys(seed, most):
    more = np.random.default_rng(0).integers(0, 2**32, (60, 2)).tolist()
    keys = [*KEYS, *map(tuple, more)]
    drawn = first_draws(seed, keys, most)
    for row, key in enumerate(keys):
        generator = np.random.default_rng([seed, *key])
        assert drawn.halves[row] == (generator.random() < 0.5)
        assert drawn.places[row].tolist() == generator.integers(0, most, size=2).tolist()
    assert 15 < drawn.halves.sum() < 50
