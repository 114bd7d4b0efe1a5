"""The diffusion model in the package: it denoises, and faces encoded to noise come back."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffdict import checkpoints
from diffdict.cli.paths import folder
from diffdict.data.toy_faces import ToyFaces
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim, ddim_invert


@pytest.fixture(scope="module")
def net():
    with initialize_config_dir(folder("conf"), version_base="1.3"):
        return instantiate(compose("extract").backbone).eval()


@pytest.fixture(scope="module")
def faces():
    pictures = ToyFaces(split="test")
    return torch.stack([pictures[i]["image"] for i in range(4)])


def psnr(ours, theirs) -> float:
    return float(10 * torch.log10(4 / (ours - theirs).square().mean()))


@torch.no_grad()
def test_faces_encoded_to_noise_come_back(net, faces):
    ways = {"objective": Objective(predict=net.predict), "respacing": "50", "clip_denoised": False}
    code = ddim_invert(net, faces, net.process, **ways).x
    assert 0.5 < code.std() < 1.5, "a code is close to noise"
    back = ddim(net, code, net.process, **ways).x
    again = ddim(net, code, net.process, **ways).x
    assert torch.equal(back, again), "eta 0 draws nothing"
    assert psnr(back, faces) > 25


@torch.no_grad()
def test_it_denoises_better_than_the_mean_picture(net, faces):
    noise = torch.randn(faces.shape, generator=torch.Generator().manual_seed(0))
    t = torch.full((4,), 200)
    keep, add = (
        net.process.sqrt_alphas_cumprod[200],
        net.process.sqrt_one_minus_alphas_cumprod[200],
    )
    noisy = (keep * faces + add * noise).float()
    v = net(noisy, t)[:, :3]
    x0 = keep * noisy - add * v if net.predict == "v" else (noisy - add * v) / keep
    mean = faces.mean(dim=(0, 2, 3), keepdim=True)
    assert (x0 - faces).square().mean() < 0.25 * (mean - faces).square().mean()


def test_the_package_holds_half_precision_weights_of_at_most_16_mb():
    path = checkpoints.resolve("toy_ddpm")
    facts = checkpoints.inspect(path)
    assert path.stat().st_size <= 16e6
    assert set(facts.dtypes) == {"float16"}
