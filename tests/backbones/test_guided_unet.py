"""Guided-diffusion's U-Net against the original's answers, and the laws of its features."""

import copy
import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diffdict.backbones.guided_layers import timestep_embedding
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.diffusion.schedules import q_sample
from diffdict.errors import UserError

FLAGS = {
    "image_size": 32,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2,2",
    "attention_resolutions": "16,8",
    "num_head_channels": 16,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
    "learn_sigma": True,
}
LSUN = FLAGS | {
    "image_size": 256,
    "num_channels": 256,
    "num_res_blocks": 2,
    "channel_mult": "",
    "attention_resolutions": "32,16,8",
    "num_head_channels": 64,
    "dropout": 0.1,
}


def built(golden_case) -> GuidedUNet:
    """The network of a golden case, with the case's weights."""
    flags = inspect.signature(GuidedUNet).parameters
    config = golden_case.facts["config"]
    return golden_case.fill(GuidedUNet(**{k: v for k, v in config.items() if k in flags}))


def awake(**changes) -> GuidedUNet:
    """A small network whose every weight is at work: zero-initialised ones too."""
    torch.manual_seed(0)
    net = GuidedUNet(**FLAGS | changes).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


def image(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32) * 2 - 1)


def normal(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def everything(net: GuidedUNet, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> dict:
    """Every module's first output in one full pass, by name; the answer is `final`."""
    seen: dict = {}

    def keep(key: str):
        def hook(module, args, output) -> None:
            seen.setdefault(key, output)

        return hook

    hooks = [module.register_forward_hook(keep(key)) for key, module in net.named_modules()]
    with torch.no_grad():
        seen["final"] = net(x_t, t, y)
    for hook in hooks:
        hook.remove()
    return seen


def distance(got: Tensor, wanted: Tensor) -> float:
    """The relative error of a whole map."""
    return ((got.float() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("case", "seed"),
    [("gd_unet_tiny", 1001), ("gd_unet_noupdown", 1101), ("gd_unet_classcond", 1201)],
)
def test_every_golden_output(golden, case, seed, memory):
    case = golden(case)
    net = built(case).to(memory_format=memory)
    y = torch.tensor([980, 60]) if case.facts["inputs"]["y"] else None
    assert list(net.state_dict()) == [key for key, _, _ in case.facts["state_dict"]]
    shapes = {b: tuple(shape) for b, shape in case.facts["output_blocks_channels_resolution"]}
    assert net.shapes == shapes
    checked = 0
    for step in (50, 250):
        t = torch.tensor([step, step])
        x_t = q_sample(
            net.process, image(seed, (2, 3, 32, 32)), t, normal(seed + 1, (2, 3, 32, 32))
        )
        seen = everything(net, x_t.to(memory_format=memory), t, y)
        seen |= {"x_t": x_t, "time_embed_sinusoid": timestep_embedding(t, 32)}
        for output in case.facts["outputs"]:
            when, name = output["name"].split(".", 1)
            if when == f"t{step}":
                case.check(output["name"], seen[name])
                checked += 1
    assert checked == len(case.facts["outputs"])


def test_every_golden_feature(golden):
    case = golden("dseg_features")
    net, images = built(case), image(3001, (2, 3, 32, 32))
    steps, blocks = case.facts["extractor"]["steps"], case.facts["extractor"]["blocks"]
    noise = normal(3002, (1, 3, 32, 32))
    got = {}
    with torch.no_grad():
        for i in range(2):
            maps = {}
            for step in steps:
                for block, seen in net.features(images[i : i + 1], step, blocks, noise).items():
                    maps[f"img{i}.t{step}.block{block}"] = seen
            got |= maps
            for size in (32, 40):
                large = [F.interpolate(m, (size, size), mode="bilinear") for m in maps.values()]
                got[f"img{i}.collected_{size}x{size}"] = torch.cat(large, dim=1)[0]
    got["img0.pixel_rows"] = got["img0.collected_32x32"].reshape(512, -1).T[::97]
    for output in case.facts["outputs"]:
        case.check(output["name"], got[output["name"]])


def test_lsun_network_has_the_released_shape():
    with torch.device("meta"):
        net = GuidedUNet(**LSUN)
    assert sum(p.numel() for p in net.parameters()) == 552_814_086
    assert len(net.state_dict()) == 566
    channels_and_side = {0: (1024, 8), 2: (1024, 16), 5: (1024, 32), 6: (512, 32), 8: (512, 64)}
    channels_and_side |= {11: (512, 128), 12: (256, 128), 14: (256, 256), 17: (256, 256)}
    for block, (channels, side) in channels_and_side.items():
        assert net.shapes[block] == (channels, side, side)
    assert len(net.shapes) == 18


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 64, "channel_mult": "", "num_res_blocks": 2},
        {"image_size": 128, "channel_mult": "", "attention_resolutions": "32,16,8"},
        {"image_size": 256, "channel_mult": "", "attention_resolutions": ""},
        {"image_size": 512, "channel_mult": "", "num_channels": 64, "num_head_channels": 32},
        {"channel_mult": [3, 1, 5], "num_head_channels": -1, "num_heads": 2},
        {"channel_mult": "1,1,2,2,3", "attention_resolutions": [8, 4]},
        {"channel_mult": "1", "attention_resolutions": 32, "num_res_blocks": 3},
        {"image_size": 24, "resblock_updown": False, "use_scale_shift_norm": False},
        {"num_head_channels": -1, "num_heads": 2, "num_heads_upsample": 4},
    ],
)
def test_shapes_are_those_of_a_forward_pass(changes):
    with torch.device("meta"):
        net = GuidedUNet(**FLAGS | changes)
        x = torch.empty(2, 3, net.image_size, net.image_size)
        seen = everything(net, x, torch.zeros(2, dtype=torch.int64))
    assert seen["final"].shape == (2, 6, net.image_size, net.image_size)
    for block, shape in net.shapes.items():
        assert seen[f"output_blocks.{block}"].shape == (2, *shape)


def test_heads_come_from_the_flag_that_rules():
    def heads(**changes) -> tuple[int, int, int]:
        with torch.device("meta"):
            net = GuidedUNet(**FLAGS | changes)
        return (
            net.input_blocks[3][1].heads,
            net.middle_block[1].heads,
            net.output_blocks[0][1].heads,
        )

    assert heads(num_head_channels=-1, num_heads=2) == (2, 2, 2)
    assert heads(num_head_channels=-1, num_heads=2, num_heads_upsample=4) == (2, 2, 4)
    assert heads(num_head_channels=32, num_heads=8, num_heads_upsample=4) == (2, 2, 2)


@pytest.mark.parametrize("new_order", [False, True])
def test_attention_is_the_published_arithmetic(new_order):
    attention = awake(use_new_attention_order=new_order).middle_block[1]
    x = torch.randn(2, 64, 4, 5)
    normed = F.group_norm(x, 32, attention.norm.weight, attention.norm.bias).flatten(2)
    qkv = F.conv1d(normed, attention.qkv.weight, attention.qkv.bias)
    order = (2, 3, 4, 16, 20) if new_order else (2, 4, 3, 16, 20)
    q, k, v = qkv.reshape(order).unbind(1 if new_order else 2)
    scores = torch.einsum("bhct,bhcs->bhts", q * 16**-0.25, k * 16**-0.25).softmax(-1)
    h = torch.einsum("bhts,bhcs->bhct", scores, v).reshape(2, 64, 20)
    h = F.conv1d(h, attention.proj_out.weight, attention.proj_out.bias)
    torch.testing.assert_close(attention(x), x + h.reshape(x.shape), atol=1e-5, rtol=1e-5)


def test_fresh_network_predicts_nothing():
    net = GuidedUNet(**FLAGS)
    assert not net(torch.randn(1, 3, 32, 32), torch.tensor([5])).any()
    silent = {key for key, value in net.state_dict().items() if value.ndim > 1 and not value.any()}
    ends = ("out_layers.3.weight", "proj_out.weight", "out.2.weight")
    assert silent == {key for key in net.state_dict() if key.endswith(ends)}


def test_odd_width_of_the_sinusoid_ends_in_zero():
    t = torch.tensor([0, 7])
    assert timestep_embedding(t, 5).shape == (2, 5)
    assert torch.equal(timestep_embedding(t, 5)[:, :4], timestep_embedding(t, 4))
    assert not timestep_embedding(t, 5)[:, 4].any()


@pytest.mark.parametrize("updown", [False, True])
def test_features_are_what_a_hook_on_a_full_pass_sees(updown):
    net = awake(resblock_updown=updown)
    images, noise, t = torch.randn(2, 3, 32, 32), torch.randn(1, 3, 32, 32), torch.tensor([70, 70])
    seen = everything(net, q_sample(net.process, images, t, noise.expand_as(images)), t)
    with torch.no_grad():
        for block in net.shapes:
            got = net.features(images, 70, [block], noise)
            assert list(got) == [block]
            assert torch.equal(got[block], seen[f"output_blocks.{block}"])
        together = net.features(images, 70, None, noise)
    assert list(together) == list(net.shapes)
    assert all(torch.equal(together[b], seen[f"output_blocks.{b}"]) for b in net.shapes)


def test_blocks_come_in_the_networks_order_and_later_ones_are_not_computed():
    net, calls = awake(), []
    for b, module in enumerate(net.output_blocks):
        module.register_forward_hook(lambda *_, b=b: calls.append(b))
    net.out.register_forward_hook(lambda *_: calls.append("out"))
    with torch.no_grad():
        got = net.features(torch.randn(1, 3, 32, 32), 10, [3, 1, 3])
    assert list(got) == [1, 3]
    assert calls == [0, 1, 2, 3]


def test_noise_is_fresh_unless_given():
    net, images = awake(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        first, second = (net.features(images, 100, [0])[0] for _ in range(2))
        torch.manual_seed(3)
        seeded = net.features(images, 100, [0])[0]
        torch.manual_seed(3)
        given = net.features(images, 100, [0], torch.randn(1, 3, 32, 32))[0]
    assert not torch.equal(first, second)
    assert torch.equal(seeded, given)


def test_a_batch_equals_its_singles():
    net, images, noise = awake(), torch.randn(3, 3, 32, 32), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        batch = net.features(images, 150, None, noise)
        for i in range(3):
            single = net.features(images[i : i + 1], 150, None, noise[i : i + 1])
            for block, seen in single.items():
                torch.testing.assert_close(seen[0], batch[block][i], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_half_precision_stays_close(golden, dtype, tolerance):
    net, images, noise = (
        built(golden("gd_unet_tiny")),
        image(1, (2, 3, 32, 32)),
        normal(2, (1, 3, 32, 32)),
    )
    half = copy.deepcopy(net).to(dtype)
    t = torch.tensor([50, 50])
    with torch.no_grad():
        wanted = net.features(images, 50, None, noise)
        got = half.features(images, 50, None, noise)
        answer = half(images, t)
        with torch.autocast("cpu", dtype):
            auto, auto_answer = net.features(images, 50, None, noise), net(images, t)
        assert distance(answer, net(images, t)) < tolerance
    assert answer.dtype == auto_answer.dtype == torch.float32
    for block, seen in wanted.items():
        assert got[block].dtype == auto[block].dtype == dtype
        assert distance(got[block], seen) < tolerance
        assert distance(auto[block], seen) < tolerance


def test_time_embedding_and_norms_are_wide_in_half_networks():
    net = awake().to(torch.bfloat16)
    seen = everything(net, torch.randn(1, 3, 32, 32), torch.tensor([999]))
    assert seen["time_embed"].dtype == torch.float32
    norm, x = net.middle_block[0].in_layers[0], 200 + torch.randn(1, 64, 8, 8)
    x = x.to(torch.bfloat16)
    wanted = F.group_norm(x.float(), 32, norm.weight.float(), norm.bias.float()).to(torch.bfloat16)
    assert torch.equal(norm(x), wanted)


def test_double_precision_agrees():
    net, x, t = awake(), torch.randn(1, 3, 32, 32), torch.tensor([40])
    with torch.no_grad():
        wide = copy.deepcopy(net).double()(x.double(), t)
        assert wide.dtype == torch.float64
        torch.testing.assert_close(net(x, t).double(), wide, atol=1e-4, rtol=1e-4)


def test_channels_last_survives_every_block():
    net = awake().to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)
    seen = everything(net, x, torch.tensor([1, 2]))
    for block in net.shapes:
        assert seen[f"output_blocks.{block}"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("mixed", "recompute"), [(True, False), (False, True)])
def test_compiles_without_a_graph_break(mixed, recompute):
    net = awake(channel_mult="1,2", attention_resolutions="16", use_checkpoint=recompute)
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([3, 900])
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        wanted, got = net(x, t), compiled(x, t)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    got.square().mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_recomputing_changes_no_gradient():
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([3, 900])
    plain, saving = awake(dropout=0.1).train(), awake(dropout=0.1, use_checkpoint=True).train()
    for net in (plain, saving):
        torch.manual_seed(5)
        net(x, t).square().mean().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_rescaled_timesteps_are_those_of_a_thousand():
    short = awake(diffusion_steps=250, rescale_timesteps=True)
    full = awake()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(short(x, torch.tensor([50])), full(x, torch.tensor([200])))
    assert (short.num_timesteps, full.num_timesteps) == (250, 1000)


def test_weights_come_back_unchanged_with_the_hash_of_their_file(tmp_path):
    net, path = awake(), tmp_path / "weights.pt"
    torch.save(net.state_dict(), path)
    loaded = GuidedUNet(**FLAGS, checkpoint=str(path))
    for key, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    assert loaded.sha256 != net.sha256  # the file's, and the parameters'
    before = loaded.sha256
    loaded.load_state_dict(net.state_dict())
    assert before != loaded.sha256 == net.sha256


def test_strict_about_keys(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(awake().state_dict(), path)
    with pytest.raises(UserError, match="learn_sigma"):
        GuidedUNet(**FLAGS | {"learn_sigma": False}, checkpoint=str(path))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"blocks": [6]}, "has no block 6. Its blocks: 0, 1, 2, 3, 4, 5"),
        ({"blocks": ["late"]}, "has no block 'late'"),
        ({"blocks": []}, "No block of guided_unet was asked for"),
        ({"timestep": 1000}, "between 0 and 999, got 1000"),
        ({"timestep": -1}, "between 0 and 999, got -1"),
        ({"timestep": None}, "between 0 and 999, got None"),
        ({"images": torch.zeros(1, 3, 32, 30)}, "divisible by 4, got 32×30"),
    ],
)
def test_wrong_questions_are_named(call, says):
    with pytest.raises(UserError, match=says):
        awake().features(**{"images": torch.zeros(1, 3, 32, 32), "timestep": 50} | call)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"channel_mult": ""}, r"\[64, 128, 256, 512\], got 32"),
        ({"channel_mult": "1;2"}, "numbers and commas"),
        ({"image_size": 30}, "divisible by 4, got 30"),
        ({"num_channels": 40}, "multiple of 32 at every level, got 40"),
        ({"num_head_channels": 48}, "num_head_channels must divide"),
        ({"num_head_channels": -1, "num_heads": 5}, "num_heads must divide"),
    ],
)
def test_impossible_flags_are_named(changes, says):
    with pytest.raises(UserError, match=says):
        GuidedUNet(**FLAGS | changes)
