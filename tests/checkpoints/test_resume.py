"""What a run can go on from, and the sentence when it cannot."""

import pytest
import torch
from torch import nn

from diffdict.checkpoints import check_resumable, facts_of, restore
from diffdict.errors import UserError


def saved(path, state, **more):
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.6.0", **more}, path)
    return path


def test_a_run_of_this_network_is_taken(tmp_path):
    net = nn.Linear(3, 2)
    path = saved(tmp_path / "last.ckpt", net.state_dict())
    assert check_resumable(path, net) == path


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (nn.Linear(4, 2), r"its weight is \(2, 4\), here \(2, 3\)"),
        (nn.Linear(3, 2, bias=False), r"its bias is missing, here \(2,\)"),
    ],
)
def test_a_run_of_another_network_is_refused(tmp_path, other, said):
    path = saved(tmp_path / "last.ckpt", other.state_dict())
    with pytest.raises(UserError, match=said):
        check_resumable(path, nn.Linear(3, 2))


def test_weights_alone_are_refused_with_the_way_out(tmp_path):
    net = nn.Linear(3, 2)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"not a run that could go on.*backbone\.checkpoint="):
        check_resumable(tmp_path / "net.pt", net)
    with pytest.raises(UserError, match="is no file"):
        check_resumable(tmp_path / "none.ckpt", net)


def test_a_run_is_restored_with_what_its_data_told(tmp_path):
    net, other = nn.Linear(3, 2), nn.Linear(3, 2)
    facts = {"d_in": 3, "mean": torch.ones(3), "palette": [(1, 2, 3)]}
    path = saved(tmp_path / "last.ckpt", net.state_dict(), facts=facts)
    assert restore(path, other) is other
    assert torch.equal(other.weight, net.weight)
    assert facts_of(path)["palette"] == [(1, 2, 3)]
    with pytest.raises(UserError, match="written by an older version"):
        facts_of(saved(tmp_path / "old.ckpt", net.state_dict()))
