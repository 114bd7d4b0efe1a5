"""Laws of PDAE: a zero shift half is the bare network; what is frozen stays; steps that learn."""

import re

import pytest
import torch

from diffdict.backbones.code_encoder import CodeEncoder
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.pdae import Pdae
from diffdict.backbones.pixels import Pixels
from diffdict.diffusion.objectives import Objective, interpret
from diffdict.diffusion.schedules import respace
from diffdict.diffusion.segments import CodeSegments
from diffdict.diffusion.shift import gap_losses, ode_eps, posterior_eps
from diffdict.errors import UserError

FLAGS = {"num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2", "num_heads": 2}


def unet(**flags):
    given = {"attention_resolutions": "8", "dropout": 0.1} | FLAGS | flags
    return randomised(GuidedUNet(16, **given))


def randomised(net, seed=0):
    """Every weight drawn, so that no layer answers with zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
    return net


def built(segments=None, **flags):
    torch.manual_seed(0)
    return Pdae(unet(**flags), CodeEncoder(16, 8, [32, 32]), 8, segments=segments)


def batch(size=2):
    generator = torch.Generator().manual_seed(3)
    pictures = torch.randn(2, size, 3, 16, 16, generator=generator)
    return (*pictures, torch.arange(size) * 300 + 7)


@torch.no_grad()
@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
@pytest.mark.parametrize("learn_sigma", [False, True])
@pytest.mark.parametrize("resblock_updown", [False, True])
@pytest.mark.parametrize("use_scale_shift_norm", [False, True])
def test_a_fresh_shift_half_is_the_bare_network(
    predict, learn_sigma, resblock_updown, use_scale_shift_norm
):
    pdae = built(
        predict=predict,
        learn_sigma=learn_sigma,
        resblock_updown=resblock_updown,
        use_scale_shift_norm=use_scale_shift_norm,
    ).eval()
    x_t, noise, t = batch()
    output = pdae.denoiser(x_t, t)
    objective = Objective(predict, "learned_range" if learn_sigma else "fixed_small")
    bare = interpret(objective, pdae.denoiser.process, output, x_t, t).eps
    eps, gradient = pdae.denoise(x_t, t, pdae.encoder(noise))
    assert torch.equal(eps, bare)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    randomised(pdae.shift)
    eps, gradient = pdae.denoise(x_t, t, pdae.encoder(noise))
    assert torch.equal(eps, bare)
    assert gradient.abs().min() > 0
    assert pdae.denoise(x_t, t, None).gradient is None


@torch.no_grad()
def test_both_halves_are_mirrored_in_shape():
    pdae = built(resblock_updown=True, num_head_channels=16, use_new_attention_order=True)
    frozen, shift = pdae.denoiser.state_dict(), pdae.shift.state_dict()
    assert not frozen.keys() & shift.keys()
    for name in ("middle_block", "output_blocks", "out"):
        for key in frozen:
            if key.startswith(f"{name}."):
                assert shift[f"shift_{key}"].shape == frozen[key].shape
    attention = pdae.shift.shift_middle_block[1]
    assert (attention.heads, attention.new_order) == (4, True)


def test_each_code_moves_its_own_picture():
    pdae = built(use_scale_shift_norm=True).eval()
    randomised(pdae.shift)
    x_t, _, t = batch()
    codes = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        both = pdae.denoise(x_t, t, codes).gradient
        one = pdae.denoise(x_t[1:], t[1:], codes[1:]).gradient
        other = pdae.denoise(x_t, t, codes.flip(0)).gradient
    torch.testing.assert_close(both[1:], one)
    assert (both - other).abs().amin((1, 2, 3)).max() > 0


def test_a_closed_part_has_no_derivative():
    parts = CodeSegments(8, 4)
    pdae = built(parts).eval()
    randomised(pdae.shift)
    x_t, noise, t = batch()
    codes = pdae.encoder(noise).detach().requires_grad_()
    pdae.denoise(x_t, t, codes * parts.prefix(t)).gradient.square().sum().backward()
    assert torch.equal(codes.grad != 0, parts.prefix(t))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_a_step_teaches_all_but_the_frozen_half(memory, dtype, batch_size):
    pdae = built(use_scale_shift_norm=True, resblock_updown=True).train().to(memory_format=memory)
    assert not pdae.denoiser.training
    frozen = {key: value.clone() for key, value in pdae.denoiser.state_dict().items()}
    x0, noise, t = batch(batch_size)
    learning = [p for p in pdae.parameters() if p.requires_grad]
    assert len(learning) == len([*pdae.encoder.parameters(), *pdae.shift.parameters()])
    x0 = x0.to(memory_format=memory)
    x_t = pdae.denoiser.process.noised(x0, t, noise)
    for _ in range(5):  # the code is heard once the layers that start as zero have left it
        pdae.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            eps, gradient = pdae.denoise(x_t, t, pdae.encoder(x0))
        losses = gap_losses(pdae.denoiser.process, noise, eps.float(), gradient.float(), t)
        losses.mean().backward()
        with torch.no_grad():
            for parameter in learning:
                parameter -= 1e-2 * parameter.grad.sign()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in pdae.encoder.parameters())
    assert all(p.grad is None for p in pdae.denoiser.parameters())
    after = pdae.denoiser.state_dict()
    assert all(torch.equal(after[key], value) for key, value in frozen.items())


def test_dual_in_one_pass_has_the_gradients_of_both_modes():
    parts = CodeSegments(8, 4)
    pdae = built(parts, use_scale_shift_norm=True).eval().double()
    randomised(pdae.shift)
    x0, noise, t = (x.double() if x.is_floating_point() else x for x in batch(4))
    x_t, gradients = pdae.denoiser.process.noised(x0, t, noise), {}
    for mode in ("base", "stop_grad", "dual"):
        pdae.zero_grad()
        eps, gradient = pdae.denoise(x_t, t, parts.opened(pdae.encoder(x0), t, mode))
        loss = gap_losses(pdae.denoiser.process, noise, eps, gradient, t).mean()
        (2 * loss if mode == "dual" else loss).backward()
        learning = [(key, p) for key, p in pdae.named_parameters() if p.requires_grad]
        gradients[mode] = {key: p.grad.clone() for key, p in learning}
    for key, both in gradients["dual"].items():
        total = gradients["base"][key] + gradients["stop_grad"][key]
        torch.testing.assert_close(both, total, rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_its_features_are_the_code_without_a_timestep():
    pdae = built({"number": 4, "stages": [500, 1000], "dims": [3, 5]})
    pictures = batch()[0]
    maps = pdae.features(pictures)
    assert pdae.shapes == {"code": (8, 1, 1), "stage0": (3, 1, 1), "stage1": (5, 1, 1)}
    assert torch.equal(maps["code"].flatten(1), pdae.encoder(pictures))
    assert torch.equal(torch.cat([maps["stage0"], maps["stage1"]], 1), maps["code"])
    with pytest.raises(UserError, match="pdae has no timesteps"):
        pdae.features(pictures, timestep=50)


@pytest.mark.parametrize(
    ("halves", "message"),
    [
        ({"denoiser": lambda: Pixels(16)}, "pixels is no diffusion network, and PDAE fills"),
        ({"denoiser": lambda: unet(class_cond=True)}, "choose a network with class_cond=false"),
        ({"encoder": lambda: CodeEncoder(32, 8)}, "image_size=16 and an encoder of 32"),
        ({"code": lambda: 9}, "code is what the encoder makes, 8 numbers, got 9: say code=8"),
        ({"segments": lambda: {"number": 4, "steps": 100}}, "got steps=100: give segments.steps="),
        ({"segments": lambda: CodeSegments(16, 4)}, "8 wide, got segments of a code of 16"),
    ],
)
def test_halves_that_do_not_belong_together(halves, message):
    given = {"denoiser": unet, "encoder": lambda: CodeEncoder(16, 8), "code": lambda: 8} | halves
    with pytest.raises(UserError, match=re.escape(message)):
        Pdae(**{name: make() for name, make in given.items()})


@torch.no_grad()
@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_a_changed_prediction_is_one_noise_for_ode_and_posterior(predict):
    """That of a network which predicts so much more."""
    torch.manual_seed(0)
    pdae = Pdae(unet(predict=predict), CodeEncoder(16, 8, [32, 32]), 8, shift="prediction").eval()
    randomised(pdae.shift)
    x_t, noise, t = batch()
    codes = pdae.encoder(noise)
    prediction, added = pdae(x_t, t, codes)
    objective = Objective(predict, "fixed_small")
    changed = interpret(objective, pdae.denoiser.process, prediction + added, x_t, t).eps
    denoised = pdae.denoise(x_t, t, codes)
    torch.testing.assert_close(pdae.ode_eps(denoised, t), changed, rtol=1e-3, atol=1e-4)
    assert torch.equal(pdae.posterior_eps(denoised, t), pdae.ode_eps(denoised, t))
    chain = respace(pdae.denoiser.process, "4")
    assert torch.equal(pdae.posterior_eps(denoised, t, chain), pdae.ode_eps(denoised, t))


@torch.no_grad()
def test_a_respaced_ancestral_chain_has_shifts_of_its_own():
    pdae = built(CodeSegments(8, 4)).eval()
    randomised(pdae.shift)
    x_t, noise, _ = batch()
    process = pdae.denoiser.process
    chain, codes = respace(process, "4"), pdae.encoder(noise)
    t = chain.timesteps[[1, 2]]
    denoised = pdae.denoise(x_t, t, pdae.opened(codes, t))
    whole, own = (pdae.posterior_eps(denoised, t, schedule) for schedule in (None, chain))
    expected = posterior_eps(chain, *denoised, torch.tensor([1, 2]))
    torch.testing.assert_close(own, expected)
    torch.testing.assert_close(whole, posterior_eps(process, *denoised, t))
    assert (own - whole).abs().max() > 0
    assert torch.equal(pdae.posterior_net(codes, chain)(x_t, t), own)
    assert torch.equal(pdae.ode_net(codes)(x_t, t), ode_eps(process, *denoised, t))
    assert torch.equal(pdae.ode_net(codes, until=900)(x_t, t), denoised.eps)
    assert torch.equal(pdae.ode_net(None)(x_t, t), denoised.eps)


def test_compiled_it_is_one_graph():
    """And the same numbers; what the compiler makes of the graph is its own affair."""
    pdae = built(use_scale_shift_norm=True, resblock_updown=True).train()
    randomised(pdae.shift)
    x_t, noise, t = batch()
    codes = pdae.encoder(noise)
    graph = torch.compile(pdae, backend="eager", fullgraph=True)
    torch.manual_seed(0)
    theirs = pdae(x_t, t, codes)
    torch.manual_seed(0)
    for one, other in zip(graph(x_t, t, codes), theirs, strict=True):
        torch.testing.assert_close(one, other)
