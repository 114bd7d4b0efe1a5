"""The contract of denoising networks, as the U-Net keeps it: process, what it is given, edits."""

import pytest
import torch

from diffdict.backbones.denoiser import Given
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.errors import UserError

FLAGS = {
    "image_size": 32,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "16",
    "num_head_channels": 16,
    "learn_sigma": True,
}


def awake(**changes: object) -> GuidedUNet:
    """A network in which no layer starts as nothing."""
    torch.manual_seed(0)
    net = GuidedUNet(**FLAGS | changes).eval()
    for parameter in net.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return net


def maps(net: GuidedUNet, x: torch.Tensor, t: torch.Tensor) -> dict[int, torch.Tensor]:
    """The output of every block in one full pass."""
    seen = {}
    hooks = [
        block.register_forward_hook(lambda *called, number=number: seen.update({number: called[2]}))
        for number, block in enumerate(net.output_blocks)
    ]
    with torch.no_grad():
        net(x, t)
    for hook in hooks:
        hook.remove()
    return seen


def test_labels_go_with_a_class_conditional_network():
    t = torch.tensor([5])
    for net, y, said in (
        (awake(), Given(label=t), "no label"),
        (awake(class_cond=True), None, r"a label \(1000\)"),
    ):
        with pytest.raises(UserError, match=f"takes {said}"):
            net(torch.zeros(1, 3, 32, 32), t, y)
    with pytest.raises(UserError, match="takes no vector"):
        awake()(torch.zeros(1, 3, 32, 32), t, Given(vector=torch.zeros(1, 8)))


def test_labels_alone_may_be_given_as_they_are():
    net, x, t = awake(class_cond=True), torch.randn(2, 3, 32, 32), torch.tensor([3, 900])
    label = torch.tensor([7, 999])
    with torch.no_grad():
        assert torch.equal(net(x, t, label), net(x, t, Given(label=label)))


def test_its_process_says_the_noise_of_every_timestep():
    net = awake()
    images, noise = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(1, 3, 32, 32)
    noised, t = net.noised(images, 250, noise)
    assert t.tolist() == [250, 250]
    signal = net.process.alphas_cumprod[250].sqrt()
    expected = signal * (images.double() + net.process.noise_levels[250] * noise.double())
    torch.testing.assert_close(noised.double(), expected, atol=1e-6, rtol=1e-6)
    assert (net.process.noise_levels.diff() > 0).all()


def test_no_edit_changes_no_bit():
    net, x, t = awake(), torch.randn(2, 3, 32, 32), torch.tensor([3, 900])
    with torch.no_grad():
        plain = net(x, t)
        assert torch.equal(net(x, t, edits={}), plain)
        same = {block: lambda h, t: h for block in net.shapes}
        assert torch.equal(net(x, t, edits=same), plain)


def test_an_edit_is_applied_where_its_map_is_made():
    """Replacing a block's map gives what follows from that map, at every block."""
    net, x, t = awake(), torch.randn(2, 3, 32, 32), torch.tensor([3, 900])
    other = torch.randn(2, 3, 32, 32)
    seen = maps(net, other, t)
    for block in net.shapes:
        met = []

        def replace(h, at, block=block, met=met):
            met.append((tuple(h.shape[1:]), at))
            return seen[block]

        hook = net.output_blocks[block].register_forward_hook(lambda *_, block=block: seen[block])
        with torch.no_grad():
            by_hook = net(x, t)
            hook.remove()
            assert torch.equal(net(x, t, edits={block: replace}), by_hook)
        assert met[0][0] == net.shapes[block]
        assert torch.equal(met[0][1], t)
        assert not torch.equal(by_hook, net(x, t))


def test_edits_name_blocks_and_keep_shapes():
    net, x, t = awake(), torch.randn(1, 3, 32, 32), torch.tensor([3])
    with pytest.raises(UserError, match="no block 9 to edit"):
        net(x, t, edits={9: lambda h, t: h})
    with pytest.raises(UserError, match=r"like the one it was given, \[1, .*at block 2"):
        net(x, t, edits={2: lambda h, t: h[:, :1]})
