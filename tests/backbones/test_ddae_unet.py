"""DDAE's U-Net: its flags, the contract of denoisers, and what it refuses."""

import pytest
import torch

from diffdict.backbones.ddae_unet import DdaeUnet
from diffdict.backbones.denoiser import Given
from diffdict.diffusion.edm import preconditioning
from diffdict.errors import UserError

FLAGS = {"image_size": 16, "n_channels": 32, "ch_mults": [1, 2], "is_attn": [False, True]}
BIG = {"n_blocks": 1, "use_res_for_updown": True, "attn_channels_per_head": 16}
KINDS = [
    {},
    {"framework": "edm"},
    BIG | {"framework": "edm", "augment_dim": 9},
    BIG | {"ch_mults": [2], "is_attn": [True], "n_T": 300},
]


def made(**changes):
    torch.manual_seed(0)
    return DdaeUnet(**FLAGS | changes).eval()


def pictures(seed=0):
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def last(net):
    return 18 if net.framework == "edm" else net.process.steps


@pytest.mark.parametrize(
    ("mults", "big", "parameters", "blocks"),
    [([1, 2, 2, 2], False, 35_746_307, 12), ([2, 2, 2], True, 56_524_291, 15)],
)
def test_the_published_networks_have_their_parameters(mults, big, parameters, blocks):
    attends = [level == 1 for level in range(len(mults))]
    with torch.device("meta"):
        net = DdaeUnet(32, 128, mults, attends, n_blocks=4 if big else 2, use_res_for_updown=big)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert list(net.shapes) == list(range(1, blocks + 1))
    deepest = (256, 8, 8) if big else (256, 4, 4)
    assert net.shapes[1] == deepest
    assert net.shapes[blocks] == (256 if big else 128, 32, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_maps_of_a_whole_pass_and_stop_after_the_last(kind):
    net, noise = made(**kind), torch.randn(1, 3, 16, 16)
    seen = {}

    def keep(number):
        return lambda h, t: seen.update({number: h}) or h

    x_t, t = net.noised(pictures(), last(net), noise)
    with torch.no_grad():
        net(x_t, t, edits={number: keep(number) for number in net.shapes})
        maps = net.features(pictures(), last(net), "all", noise)
    assert {number: tuple(h.shape[1:]) for number, h in maps.items()} == net.shapes
    assert all(torch.equal(seen[number], h) for number, h in maps.items())
    net.up[-1].register_forward_hook(lambda *_: pytest.fail("a layer above the block was run"))
    below = len(net.shapes) - 1
    with torch.no_grad():
        assert set(net.features(pictures(), last(net), [below], noise)) == {below}


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_is_applied_where_its_map_is_made(kind):
    net, x, t = made(**kind), pictures(), torch.tensor([1, 5])
    places = [layer for layer in net.up if hasattr(layer, "res")]
    for number, layer in zip(net.shapes, places, strict=True):
        other, met = torch.randn(2, *net.shapes[number]), []
        hook = layer.register_forward_hook(lambda *_, other=other: other)
        with torch.no_grad():
            expected = net(x, t)
            hook.remove()
            replace = lambda h, at, other=other, met=met: met.append(at) or other  # noqa: E731
            got = net(x, t, edits={number: replace})
            plain = net(x, t)
        assert torch.equal(got, expected)
        assert torch.equal(met[0], t)
        assert not torch.equal(got, plain)
    with torch.no_grad():
        assert torch.equal(net(x, t, edits={}), plain)
    with pytest.raises(UserError, match="no block 0 to edit"):
        net(x, t, edits={0: lambda h, t: h})


def test_a_chain_is_told_its_share_of_the_way():
    net, x, t = made(n_T=300), pictures(), torch.tensor([1, 300])
    with torch.no_grad():
        assert torch.equal(net(x, t), net.bare(x, t / 300))


def test_edm_answers_with_the_picture():
    net, x, t = made(framework="edm"), pictures(), torch.tensor([1, 18])
    sigma = net.process.noise_levels[t - 1].float()
    skip, out, inside, noise = preconditioning(sigma[:, None, None, None])
    with torch.no_grad():
        bare = net.bare(inside * x, noise.flatten())
        torch.testing.assert_close(net(x, t), skip * x + out * bare)
        assert torch.equal(net(x, t), net(x, sigma))
        assert net(x.double(), sigma.double()).dtype == torch.float64
    assert (net.predict, made().predict) == ("x0", "eps")


def test_preconditioning_stays_in_float32_under_autocast():
    """At the smallest level D is the picture itself to within sigma, which bf16 cannot hold."""
    net, x, t = made(framework="edm"), pictures(), torch.tensor([1, 1])
    with torch.no_grad():
        exact = net(x, t)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(x, t)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=2e-3 * 0.1, rtol=0)


def test_labels_of_an_augmentation_reach_the_time_embedding():
    net, x, time = made(augment_dim=9), pictures(), torch.tensor([0.1, 0.9])
    labels = torch.randn(2, 9)
    with torch.no_grad():
        plain = net.bare(x, time)
        assert torch.equal(net.bare(x, time, torch.zeros(2, 9)), plain)
        assert not torch.allclose(net.bare(x, time, labels), plain)
        t = torch.tensor([10, 600])
        told = net(x, t, Given(augmentation=labels))
        assert torch.equal(told, net.bare(x, t / 1000, labels))
    with pytest.raises(UserError, match="takes 0 labels of an augmentation, got 9"):
        made().bare(x, time, labels)


def test_timesteps_are_the_authors_own():
    net = made()
    for timestep in (0, 1001):
        with pytest.raises(UserError, match=f"between 1 and 1000, got {timestep}"):
            net.features(pictures(), timestep)
    with pytest.raises(UserError, match="between 1 and 18, got 19"):
        made(framework="edm").features(pictures(), 19)
    x_t, t = net.noised(pictures(), 1000, torch.ones(1, 3, 16, 16))
    signal = net.process.alphas_cumprod[-1]
    assert t.tolist() == [1000, 1000]
    torch.testing.assert_close(
        x_t, (signal.sqrt() * pictures() + (1 - signal).sqrt()).float(), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ch_mults": [1, 2, 2]}, "one entry a level, got 3 and 2"),
        ({"ch_mults": [], "is_attn": []}, "one entry a level, got 0 and 0"),
        ({"n_channels": 48}, "multiples of 32 at every level, got 48"),
        ({"ch_mults": [1, 1.25]}, "multiples of 32 at every level, got 40"),
        ({"attn_channels_per_head": 24}, "must divide every attending width, got 24 for 64"),
        ({"attn_channels_per_head": 0}, "must divide every attending width, got 0 for 64"),
        ({"attn_channels_per_head": -64}, "must divide every attending width, got -64 for 64"),
        ({"image_size": 15}, "divisible by 2, got 15"),
        ({"image_size": 0}, "a positive image_size divisible by 2, got 0"),
        ({"dropout": 1}, r"dropout lies in \[0, 1\)"),
        ({"n_blocks": 0}, "n_blocks is 1 or more"),
        ({"augment_dim": -1}, "augment_dim is 0 or more"),
        ({"framework": "vp"}, "one of ddpm, edm, got 'vp'"),
        ({"framework": "edm", "predict": "eps"}, "predict of framework=edm is one of x0"),
        ({"n_T": 0}, "n_T is 1 or more, got 0"),
        ({"betas": [0.02, 1e-4]}, r"rising within \(0, 1\)"),
        ({"betas": [0, 0.02]}, r"rising within \(0, 1\)"),
        ({"betas": [1e-4, 0.02, 0.03]}, r"rising within \(0, 1\)"),
        ({"framework": "edm", "sigma_min": 80}, "0 < sigma_min < sigma_max, got 80 and 80"),
        ({"framework": "edm", "rho": 0}, "rho must be positive, got 0"),
        ({"framework": "edm", "sigma_data": 0}, "sigma_data must be positive, got 0"),
        ({"framework": "edm", "steps": 1}, "2 steps or more, got 1"),
    ],
)
def test_what_it_refuses(changes, said):
    with pytest.raises(UserError, match=said):
        made(**changes)


def test_pictures_that_cannot_be_halved_and_blocks_that_are_not_there():
    with pytest.raises(UserError, match="divisible by 2, got 15×16"):
        made().bare(torch.zeros(1, 3, 15, 16), torch.zeros(1))
    for block in (0, 7, "out_6"):
        with pytest.raises(UserError, match=f"no block {block!r}"):
            made().features(pictures(), 1, [block])
