"""Concatenated timesteps: whose columns are whose, and in which timestep a row lives."""

import pytest
import torch

from diffdict.metrics.features.timestep_parts import (
    in_one_timestep,
    length_shares,
    share_columns,
    timestep_parts,
)
from diffdict.metrics.sparsity import Sparsity

DIMS = [
    {"timestep": t, "block": block, "from": start, "to": start + width}
    for t, block, start, width in ((50, 2, 0, 3), (50, 4, 3, 1), (300, 2, 4, 3), (300, 4, 7, 1))
]


def test_a_timestep_has_the_columns_of_all_its_blocks():
    assert timestep_parts(DIMS, 8) == {50: slice(0, 4), 300: slice(4, 8)}
    assert timestep_parts(DIMS[:2], 4) == {}, "one timestep has no parts"
    stacked = [{"timestep": t, "block": 2, "from": 0, "to": 4} for t in (50, 300)]
    assert timestep_parts(stacked, 4) == {}
    assert timestep_parts([{**DIMS[0], "timestep": None}, DIMS[1]], 4) == {}


def test_shares_of_a_rows_length_sum_to_one():
    parts = timestep_parts(DIMS, 8)
    rows = torch.randn(5, 8)
    rows[0], rows[1, :4] = torch.eye(8)[5], 0
    shares = length_shares(rows, parts)
    assert torch.allclose(sum(shares.values()), torch.ones(5, dtype=torch.float64))
    assert shares[300][:2].tolist() == [1, 1]
    expected = (torch.stack(list(shares.values())).amax(0) > 0.6).double().mean()
    assert in_one_timestep(shares) == float(expected) >= 0.4
    assert share_columns(shares, 0) == {"share_t0050": 0.0, "share_t0300": 1.0}
    assert share_columns(shares, None) == {"share_t0050": None, "share_t0300": None}


def test_each_part_has_an_fvu_of_its_own():
    parts = timestep_parts(DIMS, 8)
    x, generator = torch.randn(64, 8), torch.Generator().manual_seed(0)
    reconstruction = x.clone()
    reconstruction[:, 4:] += torch.randn(64, 4, generator=generator)
    metric, nothing = Sparsity(8, 2, parts=parts), torch.zeros(0)
    metric.update(x, reconstruction, nothing.long(), nothing)
    found = metric.compute()
    wanted = (x - reconstruction)[:, 4:].square().sum() / (x - x.mean(0))[:, 4:].square().sum()
    assert found.fvu_parts[50] == 0
    assert float(found.fvu_parts[300]) == pytest.approx(float(wanted), rel=1e-5)
    assert Sparsity(8, 2).parts == {}
