"""Sums of a frozen network's gap: shares by hand, at every place, and as rows."""

import pytest
import torch

from diffdict.metrics.losses.gap import GapSums, gap_places, timestep_rows


def sums():
    """Two batches; of the second no codes were exchanged."""
    found = GapSums(8)
    t = torch.tensor([0, 5, 5])
    found.add(
        t, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 4.0]), torch.tensor([2.0, 5, 5])
    )
    found.add(torch.tensor([7]), torch.tensor([1.0]), torch.tensor([10.0]))
    return found


def test_shares_are_one_minus_the_ratio_of_sums():
    found = sums()
    assert found.loss() == pytest.approx(7 / 4)
    shares = found.shares(gap_places(8, (5, 8)))
    assert shares == pytest.approx(
        {
            "gap_filled": 1 - 7 / 20,
            "gap_filled_exchanged": 1 - 12 / 10,
            "gap_filled_q1": 0.5,
            "gap_filled_exchanged_q1": 0.0,
            "gap_filled_q3": 1 - 5 / 8,
            "gap_filled_exchanged_q3": 1 - 10 / 8,
            "gap_filled_q4": 0.9,
            "gap_filled_stage0": 0.5,
            "gap_filled_exchanged_stage0": 0.0,
            "gap_filled_stage1": 1 - 6 / 18,
            "gap_filled_exchanged_stage1": 1 - 10 / 8,
        }
    )


def test_places_cover_the_chain_once():
    places = gap_places(10, (3, 10))
    assert places[""].all()
    assert sum(places[f"_q{q}"].int() for q in (1, 2, 3, 4)).tolist() == [1] * 10
    assert (places["_stage0"] ^ places["_stage1"]).all()
    assert set(gap_places(10, None)) == {"", "_q1", "_q2", "_q3", "_q4"}


def test_a_row_a_timestep():
    rows = timestep_rows({"train": sums().sums, "test": GapSums(8).sums})
    assert [row["timestep"] for row in rows] == list(range(8))
    assert rows[5] == {
        "timestep": 5,
        "train_pictures": 2,
        "train_loss": 2.5,
        "train_loss_frozen": 4.0,
        "train_gap_filled": 0.375,
        "test_pictures": 0,
        "test_loss": None,
        "test_loss_frozen": None,
        "test_gap_filled": None,
    }
