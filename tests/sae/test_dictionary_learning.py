"""dictionary_learning's ae.pt: every class of it by its own formula, and what cannot be told."""

import json

import pytest
import torch

from diffdict.errors import UserError
from diffdict.sae import dictionary_learning

D, M = 6, 15


def drawn(**shapes):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def linear(**more):
    named = drawn(e=(M, D), d=(D, M), b=(M,), **more)
    named |= {"encoder.weight": named.pop("e"), "decoder.weight": named.pop("d")}
    return {**named, "encoder.bias": named.pop("b")}


def plain(threshold):
    return {**drawn(W_enc=(D, M), b_enc=(M,), W_dec=(M, D), b_dec=(D,)), "threshold": threshold}


def hidden(s, x, centre):
    return (x - centre) @ s["encoder.weight"].T + s["encoder.bias"]


def gated(s, x):
    along = (x - s["decoder_bias"]) @ s["encoder.weight"].T
    size = (s["r_mag"].exp() * along + s["mag_bias"]).relu()
    return size * (along + s["gate_bias"] > 0)


def largest(s, x):
    pre = hidden(s, x, s["b_dec"]).relu()
    top = pre.topk(4)
    return torch.zeros_like(pre).scatter(1, top.indices, top.values)


def jumping(s, x, centre):
    pre = ((x - centre) @ s["W_enc"] + s["b_enc"]).relu()
    return pre * (pre > s["threshold"])


CASES = {
    "AutoEncoder": (linear(bias=(D,)), lambda s, x: hidden(s, x, s["bias"]).relu(), "bias"),
    "AutoEncoderNew": (
        linear(**{"decoder.bias": (D,)}),
        lambda s, x: hidden(s, x, 0).relu(),
        "decoder.bias",
    ),
    "GatedAutoEncoder": (
        {
            key: value
            for key, value in linear(
                gate_bias=(M,), mag_bias=(M,), r_mag=(M,), decoder_bias=(D,)
            ).items()
            if key != "encoder.bias"
        },
        gated,
        "decoder_bias",
    ),
    "JumpReluAutoEncoder": (plain(torch.rand(M)), lambda s, x: jumping(s, x, 0), "b_dec"),
    "MatryoshkaBatchTopKSAE": (
        {
            **plain(torch.tensor(0.4)),
            "k": torch.tensor(4, dtype=torch.int),
            "group_sizes": torch.tensor([5, 10]),
        },
        lambda s, x: jumping(s, x, s["b_dec"]),
        "b_dec",
    ),
    "AutoEncoderTopK": (
        {**linear(b_dec=(D,)), "k": torch.tensor(4), "threshold": torch.tensor(-1.0)},
        largest,
        "b_dec",
    ),
    "BatchTopKSAE": (
        {**linear(b_dec=(D,)), "k": torch.tensor(4), "threshold": torch.tensor(0.5)},
        lambda s, x: (pre := hidden(s, x, s["b_dec"]).relu()) * (pre > 0.5),
        "b_dec",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_its_codes_are_ours(tmp_path, name):
    state, encode, bias = CASES[name]
    torch.save(state, tmp_path / "ae.pt")
    if "TopK" in name:  # two classes share their names
        said = json.dumps({"trainer": {"dict_class": name}})
        (tmp_path / "config.json").write_text(said)
    sae, x = dictionary_learning.load(tmp_path / "ae.pt"), 2 * torch.randn(20, D)
    codes = encode(state, x)
    assert 0 < (codes > 0).float().mean() < 1
    torch.testing.assert_close(sae.encode(x), codes, rtol=1e-4, atol=1e-4)
    rows = state["W_dec"] if "W_dec" in state else state["decoder.weight"].T
    torch.testing.assert_close(sae.decode(codes), codes @ rows + state[bias], rtol=1e-4, atol=1e-3)


def test_what_cannot_be_told_or_read_is_said(tmp_path):
    path, (state, _, _) = tmp_path / "ae.pt", CASES["AutoEncoderTopK"]
    for change, config, words in (
        ({}, None, "AutoEncoderTopK or BatchTopKSAE"),
        ({}, "CrossCoder", "What can be read is"),
        ({"b_dec": torch.zeros(9)}, "AutoEncoderTopK", r"its b_dec is \(9,\)"),
        ({"b_dec": torch.full((D,), torch.nan)}, "AutoEncoderTopK", "no numbers: b_dec"),
        ({"k": torch.tensor(99)}, "AutoEncoderTopK", r"1\.\.15"),
    ):
        torch.save({**state, **change}, path)
        (tmp_path / "config.json").unlink(missing_ok=True)
        if config:
            (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": config}}))
        with pytest.raises(UserError, match=words):
            dictionary_learning.load(path)
    torch.save({"net.weight": torch.zeros(2, 2)}, path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"it holds net\.weight"):
        dictionary_learning.load(path)
