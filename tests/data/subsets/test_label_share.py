"""Few labels: as large a share of every class, the same ones in every run."""

import itertools

import pytest
import torch

from diffdict.data.subsets.label_share import check_label_share, share_of_labels
from diffdict.errors import UserError


def classes(counts, unknown=0):
    """A row a picture, of classes with so many pictures each."""
    label = torch.cat([torch.full((n,), number) for number, n in enumerate(counts)])
    label = label[torch.randperm(len(label), generator=torch.Generator().manual_seed(0))]
    known = torch.nn.functional.one_hot(label, len(counts)).bool()
    return torch.cat([known, torch.zeros(unknown, len(counts), dtype=torch.bool)])


def test_every_class_gives_as_large_a_share_and_one_picture_at_least():
    truth = classes([100, 40, 3], unknown=10)
    chosen = share_of_labels(truth, 0.1, 0, by_class=True)
    assert chosen == sorted(set(chosen))
    assert truth[chosen].sum(0).tolist() == [10, 4, 1]
    assert (~truth[chosen].any(1)).sum() == 1


def test_the_fewer_are_among_the_more_and_all_are_all():
    truth = classes([100, 40, 3])
    shares = [set(share_of_labels(truth, share, 0, True)) for share in (0.01, 0.1, 0.5, 1)]
    assert all(few < more for few, more in itertools.pairwise(shares))
    assert shares[-1] == set(range(143))


def test_they_follow_from_the_seed_alone():
    truth = classes([100, 40])
    first, again, other = (share_of_labels(truth, 0.1, seed, True) for seed in (0, 0, 1))
    assert first == again != other


def test_without_classes_a_share_of_all():
    truth = torch.zeros(50, 4)
    chosen = share_of_labels(truth, 0.1, 0, by_class=False)
    assert len(chosen) == 5
    assert len(share_of_labels(truth, 1e-6, 0, by_class=False)) == 1


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_a_share_is_more_than_nothing_and_no_more_than_all(share):
    with pytest.raises(UserError, match=r"more than 0 and 1 at most, got .*label_share=0\.1"):
        check_label_share(share)
