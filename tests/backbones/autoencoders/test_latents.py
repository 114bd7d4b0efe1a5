"""Pictures as latents: diffusers' own posterior, drawn by the picture; folders that will not do."""

import json
import sys

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from diffdict.backbones.autoencoders.latents import LatentEncoder, posterior_noise
from diffdict.backbones.denoiser import check_denoiser
from diffdict.backbones.dit import DiT
from diffdict.errors import UserError
from diffdict.features.noise import Noise, noised_features

FLAGS = {"input_size": 8, "hidden_size": 32, "depth": 2, "num_heads": 2, "num_classes": 5}


def autoencoder(**changes: object) -> AutoencoderKL:
    torch.manual_seed(0)
    flags = {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "block_out_channels": [8, 8],
        "norm_num_groups": 4,
    }
    return AutoencoderKL(**flags | changes).eval()


@pytest.fixture
def folder(tmp_path):
    autoencoder().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def pictures() -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, 16, 16), generator=random) / 127.5 - 1


def test_latents_are_a_draw_of_the_posterior(folder, pictures):
    got = LatentEncoder(str(folder), 4)(pictures)
    with torch.no_grad():
        posterior = autoencoder().encode(pictures).latent_dist
    noise = torch.stack([posterior_noise(picture, (4, 8, 8)) for picture in pictures])
    torch.testing.assert_close(got, (posterior.mean + posterior.std * noise) * 0.18215)


def test_latents_are_decoded_as_diffusers_does(folder):
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    net = DiT(**FLAGS, vae=str(folder)).eval()
    with torch.no_grad():
        wanted = autoencoder().decode(latents / 0.18215).sample
    torch.testing.assert_close(net.pictures(latents), wanted)
    assert check_denoiser(net, "samples are drawn by one", latents=True) is net
    assert torch.equal(DiT(**FLAGS).pictures(latents), latents)


def test_the_noise_is_a_function_of_the_picture(folder, pictures):
    encoder = LatentEncoder(str(folder), 4)
    whole = encoder(pictures)
    for index in range(3):
        torch.testing.assert_close(encoder(pictures[index : index + 1])[0], whole[index])
    draws = torch.stack([posterior_noise(picture, (4, 64, 64)) for picture in pictures])
    assert torch.equal(draws[1], posterior_noise(pictures[1].double(), (4, 64, 64)))
    assert draws.flatten(1).corrcoef().triu(1).abs().max() < 0.05
    assert abs(draws.mean()) < 0.02
    assert abs(draws.std() - 1) < 0.02


def test_a_network_looks_at_pictures_through_it(folder, pictures):
    net, bare = DiT(**FLAGS, vae=str(folder)).eval(), DiT(**FLAGS).eval()
    bare.load_state_dict(net.state_dict())  # it is no part of the weights
    assert (net.image_size, net.sha256 == bare.sha256) == (16, False)
    noise = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        got = net.features(pictures, 121, noise=noise)
        latents = LatentEncoder(str(folder), 4)(pictures)
        for block, x in bare.features(latents, 121, noise=noise).items():
            assert torch.equal(got[block], x)
    with pytest.raises(UserError, match=r"of 16×16, got 8×8: say dataset\.image_size=16"):
        net.features(pictures[..., :8, :8], 121)


def test_noise_of_a_picture_is_drawn_for_its_latents(folder, pictures):
    net = DiT(**FLAGS, vae=str(folder)).eval()
    assert net.noise_shape((3, 16, 16)) == (4, 8, 8)
    noise = Noise(shared=False, seed=3)
    with torch.no_grad():
        got = noised_features(net, pictures, [7, 8, 9], 121, [1], noise)
        own = noise.for_pictures([8], (4, 8, 8))[0]
        torch.testing.assert_close(got[1][1:2], net.features(pictures[1:2], 121, [1], own)[1])


def test_a_pipelines_folder_is_taken(tmp_path, pictures):
    autoencoder(scaling_factor=0.5).save_pretrained(tmp_path / "pipeline" / "vae")
    encoder = LatentEncoder(str(tmp_path / "pipeline"), 4)
    assert (encoder.vae.config.scaling_factor, encoder.factor) == (0.5, 2)


def test_an_autoencoder_of_other_channels_is_refused(tmp_path):
    autoencoder(latent_channels=16).save_pretrained(tmp_path / "saved")
    with pytest.raises(UserError, match="latents of 16 channels, the network takes 4"):
        DiT(**FLAGS, vae=str(tmp_path / "saved"))


def spoil(folder, how):
    config, weights = folder / "config.json", folder / "diffusion_pytorch_model.safetensors"
    if how == "no config":
        config.unlink()
    elif how == "cut config":
        config.write_text(config.read_text()[:40])
    elif how == "another kind":
        config.write_text(json.dumps({"_class_name": "UNet2DModel"}))
    elif how == "no weights":
        weights.unlink()
    elif how == "cut weights":
        weights.write_bytes(weights.read_bytes()[:5000])
    else:
        weights.rename(folder / "diffusion_pytorch_model.bin")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no config", "holds no whole AutoencoderKL"),
        ("cut config", "holds no whole AutoencoderKL"),
        ("another kind", "holds UNet2DModel, it must be an AutoencoderKL"),
        ("no weights", "holds no whole AutoencoderKL"),
        ("cut weights", "holds no whole AutoencoderKL"),
        ("a pickle", "holds no whole AutoencoderKL"),
    ],
)
def test_spoiled_folders_are_refused_in_one_line(folder, how, says):
    spoil(folder, how)
    with pytest.raises(UserError, match=rf"vae={folder} {says}") as told:
        LatentEncoder(str(folder), 4)
    assert "\n" not in str(told.value)


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no folder: name one that diffusers saved"):
        LatentEncoder(str(tmp_path / "nowhere"), 4)


def test_without_diffusers_the_way_out_is_said(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"backbone.vae needs diffusers.*diffdict\[diffusers\]"):
        LatentEncoder(str(folder), 4)
