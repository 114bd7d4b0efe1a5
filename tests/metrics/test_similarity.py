"""SSIM and squared error of pictures, against the published code."""

import pytest
import torch

from diffdict.errors import UserError
from diffdict.metrics.similarity import mse, ssim
from tests.inputs import normal, unit

SHAPE = (4, 3, 32, 32)
A = unit(9151, SHAPE)
B = (A + 0.1 * normal(9152, SHAPE)).clamp(0, 1)


@pytest.mark.parametrize("metric", [ssim, mse])
def test_published_figures(golden, metric):
    golden("diti_figures").check(metric.__name__, metric(A, B))


def test_a_picture_is_like_itself():
    torch.testing.assert_close(ssim(A, A), torch.ones(4))
    assert torch.equal(mse(A, A), torch.zeros(4))


def test_every_pair_stands_alone_and_both_ways():
    torch.testing.assert_close(ssim(A, B)[2:3], ssim(A[2:3], B[2:3]))
    torch.testing.assert_close(ssim(A, B), ssim(B, A))


def test_half_precision_is_measured_in_full():
    torch.testing.assert_close(ssim(A.half(), B.half()), ssim(A, B), atol=1e-3, rtol=0)
    assert ssim(A.half(), B.half()).dtype == torch.float32


def test_a_task_in_half_precision_measures_in_full():
    with torch.autocast("cpu", torch.bfloat16):
        half = ssim(A, B)
    assert torch.equal(half, ssim(A, B))


@pytest.mark.parametrize("metric", [ssim, mse])
def test_pictures_of_two_sizes(metric):
    with pytest.raises(UserError, match="Pictures are compared with pictures of their size, got"):
        metric(A, B[:, :, :16])
