"""The pixels backbone: colours as they are, and where they stand."""

import pytest
import torch

from diffdict.backbones.pixels import Pixels
from diffdict.errors import UserError


def test_colours_pass_through_and_positions_are_centres():
    images = torch.rand(2, 3, 4, 6) * 2 - 1
    block = Pixels(4).features(images)["pixels"]
    assert torch.equal(block[:, :3], images)
    rows, columns = torch.tensor([-0.75, -0.25, 0.25, 0.75]), (torch.arange(6) + 0.5) / 3 - 1
    torch.testing.assert_close(block[0, 3], rows[:, None].expand(4, 6))
    torch.testing.assert_close(block[1, 4], columns.expand(4, 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dtype_is_the_images(dtype):
    assert Pixels(8).features(torch.zeros(1, 3, 8, 8, dtype=dtype))["pixels"].dtype == dtype


def test_facts():
    net = Pixels(16)
    assert net.shapes == {"pixels": (5, 16, 16)}
    assert net.num_timesteps is None
    assert net.sha256 == Pixels(16).sha256


def test_a_timestep_is_refused():
    with pytest.raises(UserError, match="pixels has no timesteps, got timestep=50"):
        Pixels(8).features(torch.zeros(1, 3, 8, 8), timestep=50)
