"""DiT against the original's answers and diffusers' own DiT; features, edits, misfits."""

import copy

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor

from diffdict import checkpoints
from diffdict.backbones.denoiser import Given, check_denoiser
from diffdict.backbones.dit import DiT
from diffdict.checkpoints.architecture import infer_architecture
from diffdict.errors import UserError

TINY = {"input_size": 8, "hidden_size": 32, "depth": 3, "num_heads": 2, "num_classes": 5}
T = torch.tensor([81, 121])
LATENTS = torch.from_numpy(np.random.default_rng(9201).standard_normal((2, 4, 16, 16), np.float32))
X = LATENTS[:, :, :8, :8]


@pytest.fixture(scope="module")
def net(golden) -> DiT:
    case = golden("dit_small")
    return case.fill(DiT(**case.facts["config"]))


def awake(**changes: object) -> DiT:
    """A small network in which no layer starts as nothing."""
    torch.manual_seed(0)
    net = DiT(**TINY | changes).eval()
    for parameter in net.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return net


def outputs(net: DiT, x: Tensor, t: Tensor, given: Given | Tensor) -> dict[str, Tensor]:
    """What the case holds of a whole pass."""
    got = {}

    def keep(name: str):
        return lambda module, inputs, output: got.update({name: output})

    hooks = [net.t_embedder.mlp.register_forward_hook(keep("time_embedding"))]
    for number, block in enumerate(net.blocks):
        hooks.append(block.register_forward_hook(keep(f"layer-{number}")))
    first = net.blocks[0].register_forward_pre_hook(lambda _, inputs: got.update(cond=inputs[1]))
    with torch.no_grad():
        got["out"] = net(x, t, given)
    for hook in (*hooks, first):
        hook.remove()
    last = f"layer-{len(net.blocks) - 1}"
    return got | {"condition": got.pop("cond"), f"pooled.{last}": got[last].mean(1)}


def test_every_golden_output(golden, net):
    case = golden("dit_small")
    assert sum(p.numel() for p in net.parameters()) == case.facts["n_params"]
    got = outputs(net, LATENTS, T, torch.tensor([10, 10]))
    assert got.keys() == {output["name"] for output in case.facts["outputs"]}
    for name, x in got.items():
        case.check(name, x)


def test_a_fresh_network_has_the_fixed_positions_and_answers_nothing(golden):
    net, rows = DiT(**TINY), golden("dit_small").facts["pos_embed_sincos_first_rows"]
    assert not net.pos_embed.requires_grad
    table = DiT(**golden("dit_small").facts["config"]).pos_embed[0]
    torch.testing.assert_close(table[:3, :8], torch.tensor(rows))
    assert not net(X, T).any()  # adaLN-Zero


def test_the_released_network_has_its_size():
    with torch.device("meta"):
        net = DiT()
    assert net.shapes == dict.fromkeys(range(28), (1152, 16, 16))
    assert (net.image_size, net.num_timesteps) == (256, 1000)
    assert sum(p.numel() for p in net.parameters()) == 675_129_632
    entry = checkpoints.releases()["dit_xl_2_256"]
    assert "non-commercial" in entry.licence


def in_diffusers(net: DiT, heads: int) -> DiTTransformer2DModel:
    """diffusers' own network with these weights.

    It divides by half - 1 in its sinusoid, and its second norms have another eps: the original's
    are told to it.
    """
    width, side, _ = net.shapes[0]
    theirs = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=net.in_channels,
        out_channels=net.final_layer.linear.out_features // net.patch_size**2,
        num_layers=len(net.blocks),
        sample_size=side * net.patch_size,
        patch_size=net.patch_size,
        num_embeds_ada_norm=net.num_classes,
        norm_eps=1e-6,
    ).eval()
    ours, state = net.state_dict(), {}
    for end in ("weight", "bias"):
        state[f"pos_embed.proj.{end}"] = ours[f"x_embedder.proj.{end}"]
        state[f"proj_out_1.{end}"] = ours[f"final_layer.adaLN_modulation.1.{end}"]
        state[f"proj_out_2.{end}"] = ours[f"final_layer.linear.{end}"]
        for number in range(len(net.blocks)):
            own, block = f"blocks.{number}", f"transformer_blocks.{number}"
            for letter, part in zip("qkv", ours[f"{own}.attn.qkv.{end}"].chunk(3), strict=True):
                state[f"{block}.attn1.to_{letter}.{end}"] = part
            for here, there in (
                ("attn.proj", "attn1.to_out.0"),
                ("mlp.fc1", "ff.net.0.proj"),
                ("mlp.fc2", "ff.net.2"),
                ("adaLN_modulation.1", "norm1.linear"),
            ):
                state[f"{block}.{there}.{end}"] = ours[f"{own}.{here}.{end}"]
            for here, there in ((0, 1), (2, 2)):
                key = f"{block}.norm1.emb.timestep_embedder.linear_{there}.{end}"
                state[key] = ours[f"t_embedder.mlp.{here}.{end}"]
            table = f"{block}.norm1.emb.class_embedder.embedding_table.weight"
            state[table] = ours["y_embedder.embedding_table.weight"]
    missing = theirs.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) <= {"pos_embed.pos_embed"}
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return theirs


def test_diffusers_own_network_answers_the_same():
    torch.manual_seed(1)
    net = awake(patch_size=4, hidden_size=48, num_heads=3)
    net.pos_embed.data.copy_(DiT(**TINY | {"patch_size": 4, "hidden_size": 48}).pos_embed)
    theirs, label = in_diffusers(net, 3), torch.tensor([2, 5])
    with torch.no_grad():
        wanted = theirs(X, T, label).sample
        torch.testing.assert_close(net(X, T, label), wanted, atol=1e-5, rtol=1e-5)


def test_features_are_the_blocks_of_a_pass_at_the_null_class(net):
    noise = torch.randn(1, 4, 16, 16)
    x_t, t = net.noised(LATENTS, 121, noise)
    wanted = outputs(net, x_t, t, torch.tensor([10, 10]))
    with torch.no_grad():
        got = net.features(LATENTS, 121, noise=noise)
    assert {block: tuple(x.shape[1:]) for block, x in got.items()} == net.shapes
    for block, x in got.items():
        torch.testing.assert_close(x.flatten(2).mT, wanted[f"layer-{block}"], atol=1e-5, rtol=1e-5)


def test_a_pass_ends_with_the_last_block_asked_for(net):
    called = []
    hooks = [
        block.register_forward_hook(lambda *_, number=number: called.append(number))
        for number, block in enumerate(net.blocks)
    ]
    with torch.no_grad():
        got = net.features(LATENTS, 81, [2, 0])
    for hook in hooks:
        hook.remove()
    assert (list(got), called) == ([0, 2], [0, 1, 2])


def test_without_a_label_it_is_the_null_class(net):
    null = torch.tensor([10, 10])
    with torch.no_grad():
        wanted = net(LATENTS, T, null)
        for given in (None, Given(), Given(label=null)):
            assert torch.equal(net(LATENTS, T, given), wanted)
        assert not torch.equal(net(LATENTS, T, torch.tensor([3, 10])), wanted)


def test_labels_are_dropped_in_training_alone():
    net = awake(class_dropout_prob=0.999)
    label, null = torch.tensor([1, 2]), torch.tensor([5, 5])
    with torch.no_grad():
        assert not torch.equal(net(X, T, label), net(X, T, null))
        torch.manual_seed(0)
        assert torch.equal(net.train()(X, T, label), net.eval()(X, T, null))


def test_an_edit_is_applied_where_its_map_is_made(net):
    with torch.no_grad():
        plain, other = net(LATENTS, T), net.features(LATENTS.flip(0), 81)
        assert torch.equal(net(LATENTS, T, edits={}), plain)
        assert torch.equal(net(LATENTS, T, edits=dict.fromkeys(net.shapes, lambda h, t: h)), plain)
        for block in net.shapes:
            tokens = other[block].flatten(2).mT
            hook = net.blocks[block].register_forward_hook(lambda *_, tokens=tokens: tokens)
            by_hook = net(LATENTS, T)
            hook.remove()
            edits = {block: lambda h, t, block=block: other[block]}
            assert torch.equal(net(LATENTS, T, edits=edits), by_hook)
            assert not torch.equal(by_hook, plain)
    with pytest.raises(UserError, match="no block 4 to edit"):
        net(LATENTS, T, edits={4: lambda h, t: h})


def test_maps_stand_where_the_patches_do():
    net, changed = awake(), X.clone()
    changed[:, :, 2:4, 6:8] *= -1  # second row of patches, fourth column
    with torch.no_grad():
        zero = torch.zeros(1, 4, 8, 8)
        moved = net.features(changed, 0, [0], zero)[0] - net.features(X, 0, [0], zero)[0]
    assert moved.norm(dim=1).flatten(1).argmax(1).tolist() == [1 * 4 + 3] * 2


def test_a_network_of_pixels_needs_no_autoencoder():
    net = awake(in_channels=3, learn_sigma=False)
    assert net.image_size == 8
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 8, 8), T[:1]).shape == (1, 3, 8, 8)


def test_what_is_done_with_pictures_is_refused_on_latents():
    says = "dit denoises latents of 4×8×8, no pictures, and samples are drawn by one"
    with pytest.raises(UserError, match=says):
        check_denoiser(DiT(**TINY), "samples are drawn by one")
    with pytest.raises(UserError, match=r"give the autoencoder of its latents, backbone\.vae="):
        check_denoiser(DiT(**TINY), "samples are drawn by one", latents=True)
    pixels = DiT(**TINY, in_channels=3)
    assert check_denoiser(pixels, "samples are drawn by one") is pixels


def test_half_networks_take_and_give_halves(net):
    half = copy.deepcopy(net).to(torch.bfloat16)
    noise = torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        got, wanted = half.features(LATENTS, 81, [3], noise), net.features(LATENTS, 81, [3], noise)
    assert got[3].dtype == torch.bfloat16
    assert (got[3].float() - wanted[3]).norm() < 0.05 * wanted[3].norm()


def test_its_file_fills_it_and_says_its_flags(tmp_path):
    net = awake()
    torch.save(net.state_dict(), tmp_path / "dit.pt")
    loaded = DiT(**TINY, checkpoint=str(tmp_path / "dit.pt"))
    assert all(torch.equal(x, net.state_dict()[key]) for key, x in loaded.state_dict().items())
    kind, flags = infer_architecture({key: tuple(x.shape) for key, x in net.state_dict().items()})
    assert kind == "DiT"
    wanted = {key: value for key, value in TINY.items() if key != "num_heads"}
    assert flags == wanted | {"patch_size": 2, "in_channels": 4, "learn_sigma": True}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"input_size": 16}, r"backbone\.input_size=8 \(the network has 16\)"),
        ({"hidden_size": 64}, r"backbone\.hidden_size=32 \(the network has 64\)"),
        ({"depth": 2}, r"backbone\.depth=3 \(the network has 2\)"),
        ({"num_classes": 6}, r"backbone\.num_classes=5 \(the network has 6\)"),
        ({"learn_sigma": False}, r"backbone\.learn_sigma=true \(the network has false\)"),
        ({"mlp_ratio": 2}, r"fc1.weight \(128, 32\) in the file, \(64, 32\) in the network"),
    ],
)
def test_a_file_of_other_sizes_is_refused_in_one_line(tmp_path, changes, says):
    torch.save(awake().state_dict(), tmp_path / "dit.pt")
    with pytest.raises(UserError, match=rf"dit\.pt does not fit dit: .*{says}") as told:
        DiT(**TINY | changes, checkpoint=str(tmp_path / "dit.pt"))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"patch_size": 3}, "input_size must be a multiple of patch_size, got 8 and 3"),
        ({"num_heads": 5}, "hidden_size must be a multiple of num_heads, got 32 and 5"),
        ({"hidden_size": 34}, "hidden_size must be a multiple of 4, got 34 and 4"),
        ({"depth": 0}, "depth is 1 or more, got 0"),
        ({"in_channels": 0}, "in_channels is 1 or more, got 0"),
        ({"num_classes": 0}, "num_classes is 1 or more, got 0"),
        ({"mlp_ratio": 0.01}, "hidden_size × mlp_ratio is 1 or more, got 0"),
        ({"class_dropout_prob": 1}, r"class_dropout_prob lies in \[0, 1\), got 1"),
    ],
)
def test_impossible_flags_are_named(changes, says):
    with pytest.raises(UserError, match=says):
        DiT(**TINY | changes)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"blocks": [3]}, "dit has no block 3. Its blocks: 0, 1, 2"),
        ({"timestep": None}, "dit needs a timestep between 0 and 999, got None"),
        ({"images": torch.zeros(1, 3, 64, 64)}, "latents of 4 channels, got pictures: give .*vae="),
        ({"images": torch.zeros(1, 4, 16, 16)}, "takes latents of 4×8×8, got 4×16×16"),
    ],
)
def test_wrong_questions_are_named(call, says):
    with pytest.raises(UserError, match=says):
        DiT(**TINY).features(**{"images": X, "timestep": 81} | call)


def test_without_a_null_class_it_has_no_features():
    net = awake(class_dropout_prob=0)
    assert len(net.y_embedder.embedding_table.weight) == 5
    with pytest.raises(UserError, match="dit has no null class"):
        net.features(X, 81)
    with torch.no_grad():
        assert net(X, T, torch.tensor([0, 4])).shape == (2, 8, 8, 8)
