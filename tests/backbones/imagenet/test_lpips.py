"""LPIPS: torchmetrics' formula on the same weights, and a file that is missing or another."""

import pytest
import torch
import torchmetrics.functional.image.lpips as theirs

from diffdict.backbones.imagenet.lpips import FILE, Lpips, linear_weights, open_lpips
from diffdict.errors import UserError
from diffdict.training.autoencoding import Autoencoding
from tests.inputs import image


def alexnet(path):
    """A file as torchvision's, with random weights."""
    torch.manual_seed(0)
    state = {f"features.{key}": value for key, value in Lpips().features.state_dict().items()}
    torch.save({**state, "classifier.1.weight": torch.zeros(2, 2)}, path)
    return str(path)


@pytest.mark.parametrize("size", [(40, 40), (64, 48)])
def test_it_is_torchmetrics_formula(tmp_path, monkeypatch, size):
    net = open_lpips(alexnet(tmp_path / "alexnet.pth"))
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *_: net.features)
    whole = theirs._LPIPS(net="alex")  # its linear weights are those it ships
    a, b = image(1, (3, 3, *size)), image(2, (3, 3, *size))
    torch.testing.assert_close(net(a, b), whole(a, b).flatten())
    assert net(a, b).min() > 0
    assert torch.equal(net(a, a), torch.zeros(3))


def test_linear_weights_are_none_below_zero():
    assert [weight.shape for weight in linear_weights()] == [(64,), (192,), (384,), (256,), (256,)]
    assert all(weight.min() >= 0 for weight in linear_weights())


def test_without_a_file_it_is_left_out_and_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFDICT_CHECKPOINTS", str(tmp_path))
    assert open_lpips() is None
    assert f"at {tmp_path / FILE}" in capsys.readouterr().out
    assert list(Autoencoding(1).measures) == ["ssim", "mse"]
    alexnet(tmp_path / FILE)
    test = Autoencoding(1)
    assert list(test.measures) == ["ssim", "mse", "lpips"]
    assert test.sums.shape == (3, 7)
    test.leave_out_small(16)
    assert list(test.measures) == ["ssim", "mse"]
    assert test.sums.shape == (3, 5)
    with pytest.raises(UserError, match=r"No file none.pth: LPIPS needs torchvision's AlexNet"):
        open_lpips("none.pth")


def test_another_network_is_told_from_alexnet(tmp_path):
    torch.save({"features.0.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other.pth is not torchvision's AlexNet.*or no lpips="):
        open_lpips(tmp_path / "other.pth")


def test_pictures_too_small_are_refused():
    with pytest.raises(UserError, match="32×32 at least"):
        Lpips()(image(1, (1, 3, 16, 16)), image(1, (1, 3, 16, 16)))
