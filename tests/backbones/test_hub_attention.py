"""cross.WORD and taps=attention of backbone=hub, against attention computed by hand."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.embeddings import apply_rotary_emb

from diffdict.backbones.hub import Hub
from diffdict.errors import UserError
from tests.tiny_pipelines import FACTOR, SIDE, save_pipeline, save_with_encoders, told

LATENT = SIDE // FACTOR
TEXT = "A cat, two"
# a block, its layers of attention, and the pieces of "cat" among the tokens of letters: of CLIP
# behind its beginning, of T5 each word with a mark before it; SD3 has CLIP's nine first
CLIP, T5 = [2, 3, 4], [2, 3, 4, 5]
JOINT = CLIP + [9 + place for place in T5]
CASES = {
    "sd": ("up_blocks.0.attentions.0", ["transformer_blocks.0.attn2"], CLIP),
    "sdxl": ("up_blocks.0.attentions.1", [f"transformer_blocks.{i}.attn2" for i in (0, 1)], CLIP),
    "pixart": ("transformer_blocks.1", ["attn2"], T5),
    "sd3": ("transformer_blocks.1", ["attn"], JOINT),
    "flux": ("transformer_blocks.1", ["attn"], T5),
    "flux single": ("single_transformer_blocks.0", ["attn"], T5),
}


def heads(layer, x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (layer.heads, -1))


def by_hand(layer, kwargs: dict, texts: int) -> torch.Tensor:
    """[batch, places, tokens of the text], from diffusers' own projections in float32."""
    x, text, rotation = (
        kwargs.get(name) for name in ("hidden_states", "encoder_hidden_states", "image_rotary_emb")
    )
    joint = getattr(layer, "added_kv_proj_dim", None) is not None
    cross = not joint and rotation is None
    query, key = heads(layer, layer.to_q(x)), heads(layer, layer.to_k(text if cross else x))
    if getattr(layer, "norm_q", None) is not None:
        query, key = layer.norm_q(query), layer.norm_k(key)
    text_first = rotation is not None
    if joint:
        more, also = heads(layer, layer.add_q_proj(text)), heads(layer, layer.add_k_proj(text))
        if layer.norm_added_q is not None:
            more, also = layer.norm_added_q(more), layer.norm_added_k(also)
        query = torch.cat([more, query] if text_first else [query, more], dim=1)
        key = torch.cat([also, key] if text_first else [key, also], dim=1)
    if rotation is not None:
        query, key = (apply_rotary_emb(x, rotation, sequence_dim=1) for x in (query, key))
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    if (mask := kwargs.get("attention_mask")) is not None:
        scores = scores + mask[:, None]
    shares = scores.softmax(-1).mean(1)
    if joint or text_first:
        ours = slice(texts) if text_first else slice(-texts, None)
        places = slice(texts, None) if text_first else slice(-texts)
        return shares[:, places, ours]
    return shares


@torch.no_grad()
def expected(net: Hub, name: str, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The layer's shares in a pass of its own, on its grid."""
    layer, seen = net.network.get_submodule(name), []
    texts = net.texts.prompt.states.shape[1]

    def keep(layer, args, kwargs) -> None:
        kwargs = kwargs if not args else {**kwargs, "hidden_states": args[0]}
        seen.append(by_hand(layer, kwargs, texts))

    hook = layer.register_forward_pre_hook(keep, with_kwargs=True)
    net(x_t, t)
    hook.remove()
    side = round(seen[0].shape[1] ** 0.5)
    return seen[0].mT.unflatten(2, (side, side))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A family's whole pipeline, saved once."""
    root, saved = tmp_path_factory.mktemp("pipelines"), {}

    def folder(family: str):
        if family not in saved:
            save_with_encoders(family, root / family)
            saved[family] = root / family
        return saved[family]

    return folder


def make(folders, family: str, **more) -> Hub:
    folder = folders(family)
    more = {"prompt": TEXT, "prompts": str(folder / "kept"), **more}
    return Hub(str(folder), SIDE, **more).requires_grad_(False).eval()


@pytest.mark.parametrize("case", CASES)
def test_a_word_is_what_its_tokens_are_given(folders, case):
    family, (block, layers, pieces) = case.split()[0], CASES[case]
    net = make(folders, family, words=["cat", "TWO"])
    word = f"{block}.cross.cat"
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noise = torch.randn(1, 4, LATENT, LATENT, generator=torch.Generator().manual_seed(2))
    x_t, t = net.noised(net.prepared(images), 300, noise)
    alone = net.features(images, 300, [block], noise)[block]
    maps = net.features(images, 300, [block, word, f"{block}.cross.TWO"], noise)
    assert torch.equal(maps[block], alone), "who reads attention changes nothing"
    own = sum(expected(net, f"{block}.{layer}", x_t, t) for layer in layers) / len(layers)
    torch.testing.assert_close(maps[word], own[:, pieces].sum(1, keepdim=True))
    assert maps[word].std() > 0
    assert tuple(maps[word].shape[1:]) == net.shapes[word] == (1, *net.shapes[block][1:])
    assert not torch.equal(maps[word], maps[f"{block}.cross.TWO"])


@pytest.mark.parametrize("family", ["sd", "sd3", "flux"])
def test_the_whole_network_attends_with_the_mean_of_its_layers(folders, family):
    net = make(folders, family, words=["cat"])
    pieces = CASES[family][2]
    x_t, t = torch.randn(1, 4, LATENT, LATENT), torch.tensor([300])
    ends = f".{net.family.cross}"
    layers = [name for name, _ in net.network.named_modules() if name.endswith(ends)]
    assert len(layers) == {"sd": 4, "sd3": 3, "flux": 4}[family]
    maps = [expected(net, name, x_t, t)[:, pieces].sum(1, keepdim=True) for name in layers]
    side = max(x.shape[2] for x in maps)
    own = torch.cat([F.interpolate(x, (side, side), mode="bilinear") for x in maps]).mean(0)
    zero = torch.zeros(1, 4, LATENT, LATENT)
    net.process = type("Still", (), {"steps": 1000, "timesteps": [0]})()  # x_t as it stands
    net.noised = lambda images, timestep, noise: (x_t, t)
    torch.testing.assert_close(net.features(zero, 300, ["cross.cat"])["cross.cat"][0], own)
    assert "cross.cat" in net.shapes
    assert not net.family.outer("cross.cat")


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_attention_of_joint_layers_is_a_channel_a_token(folders, family):
    block, (layer,), _ = CASES[family]
    net = make(folders, family, taps="attention")
    zero = torch.zeros(1, 3, SIDE, SIDE)
    noise = torch.randn(1, 4, LATENT, LATENT)
    x_t, t = net.noised(net.prepared(zero), 300, noise)
    maps = net.features(zero, 300, [block], noise)[block]
    torch.testing.assert_close(maps, expected(net, f"{block}.{layer}", x_t, t))
    assert maps.shape[1] == net.texts.prompt.states.shape[1]
    assert maps.sum(1).max() < 1, "the picture attends to itself too"


def test_a_word_alone_ends_the_pass_at_its_layer(folders):
    net, called = make(folders, "sd", words=["cat"]), []
    hook = net.network.up_blocks[0].resnets[0].register_forward_hook(lambda *_: called.append(1))
    net.features(torch.zeros(1, 3, SIDE, SIDE), 300, ["mid_block.cross.cat"])
    hook.remove()
    assert not called
    assert not any("cross" in block for block in net.chosen(None))


def test_words_that_cannot_be_seen_are_one_line(folders, tmp_path):
    for text, words, said in (
        (TEXT, ["dog"], "the prompt has no word 'dog'. Its words: a, cat, two"),
        (TEXT, ["two cats"], "no word 'two cats'. Its words: a, cat, two"),
        ("", ["dog"], r"Its words: none, for backbone\.prompt is empty"),
        ("one two three four", ["four"], "'four' stands behind the tokens that the pipeline reads"),
    ):
        with pytest.raises(UserError, match=said) as wrong:
            make(folders, "sd", prompt=text, words=words)
        assert "\n" not in str(wrong.value)
    net = make(folders, "sd", words=["cat"])
    with pytest.raises(UserError, match=r"attention at mid_block\.cross\.cat, which cannot be ed"):
        net(torch.zeros(1, 4, 8, 8), torch.tensor([3]), edits={"mid_block.cross.cat": torch.add})
    with pytest.raises(UserError, match=r"has no block 'mid_block\.cross\.dog'.*cross\.cat"):
        net.chosen("mid_block.cross.dog")
    folder = save_pipeline("dit", tmp_path / "dit")
    with pytest.raises(UserError, match=r"backbone\.words shows .* no layers of cross-attention"):
        Hub(str(folder), SIDE, words=["cat"])
    folder = save_pipeline("sd", tmp_path / "sd")
    with pytest.raises(UserError, match=r"words\.npz is a file: backbone\.prompt=TEXT"):
        Hub(str(folder), SIDE, words=["cat"], **told("sd", folder))
    net.network.set_attn_processor(AttnProcessor())
    with pytest.raises(UserError, match="a kernel that does not show its queries"):
        net.features(torch.zeros(1, 3, SIDE, SIDE), 300, ["mid_block.cross.cat"])
