"""Statistics of features are read as pytorch-fid writes them, and nothing else is."""

import numpy as np
import pytest
import torch

from diffdict.errors import UserError
from diffdict.metrics.frechet import Statistics
from diffdict.results.inputs.feature_statistics import read_statistics, write_statistics

WHOLE = Statistics(torch.tensor([0.1, 2.0]).double(), torch.tensor([[1.0, 0.3], [0.3, 2]]).double())


def test_what_is_written_is_read_bit_for_bit(tmp_path):
    write_statistics(tmp_path / "real.npz", WHOLE)
    with np.load(tmp_path / "real.npz") as arrays:  # what pytorch-fid does
        assert sorted(arrays) == ["mu", "sigma"]
        assert arrays["sigma"].dtype == np.float64
    for ours, theirs in zip(read_statistics(tmp_path / "real.npz").statistics, WHOLE, strict=True):
        assert torch.equal(ours, theirs)


def test_archives_of_guided_diffusion_hold_sfids_beside(tmp_path):
    mu, sigma = (x.numpy() for x in WHOLE)
    np.savez(tmp_path / "ref.npz", mu=mu, sigma=sigma, mu_s=mu + 1, sigma_s=2 * sigma)
    plain, spatial = (read_statistics(tmp_path / "ref.npz", spatial=s) for s in (False, True))
    assert torch.equal(plain.statistics.mu, WHOLE.mu)
    assert torch.equal(spatial.statistics.mu, WHOLE.mu + 1)
    assert torch.equal(spatial.statistics.sigma, 2 * WHOLE.sigma)
    write_statistics(tmp_path / "own.npz", WHOLE)
    assert torch.equal(read_statistics(tmp_path / "own.npz", spatial=True).statistics.mu, WHOLE.mu)


def test_compressed_float32_files_are_read(tmp_path):
    mu, sigma = (x.float().numpy() for x in WHOLE)
    np.savez_compressed(tmp_path / "real.npz", mu=mu, sigma=np.asfortranarray(sigma))
    got = read_statistics(tmp_path / "real.npz").statistics
    torch.testing.assert_close(got.sigma, WHOLE.sigma, rtol=1e-6, atol=0)
    assert got.mu.dtype == torch.float64


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"mu": np.zeros(2)}, "holds mu, statistics are mu and sigma"),
        ({"mu": np.zeros(2), "sigma": np.eye(3)}, r"mu float64 \[2\] and sigma float64 \[3, 3\]"),
        ({"mu": np.zeros((2, 1)), "sigma": np.eye(2)}, "a vector and a square matrix"),
        ({"mu": np.zeros(0), "sigma": np.eye(0)}, "a vector and a square matrix"),
        ({"mu": np.zeros(2, int), "sigma": np.eye(2)}, "floating-point numbers"),
        ({"mu": np.full(2, np.nan), "sigma": np.eye(2)}, "holds NaN or infinity"),
        ({"mu": np.array([{}, {}]), "sigma": np.eye(2)}, "no whole .npz file"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, says):
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(UserError, match=rf"other\.npz .*{says}"):
        read_statistics(tmp_path / "other.npz")


def test_cut_flipped_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "real.npz"
    write_statistics(path, WHOLE)
    data = path.read_bytes()
    at = data.index(WHOLE.sigma.numpy().tobytes())
    flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    for bad in (data[: len(data) // 2], flipped, b"", b"no zip"):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=r"real\.npz is no whole \.npz file of mu and sigma"):
            read_statistics(path)
    path.unlink()
    with pytest.raises(UserError, match="No such file"):
        read_statistics(path)
