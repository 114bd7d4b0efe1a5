"""The hand-written gradients are autograd's, entry by entry."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffdict.sae import sparse
from diffdict.sae.relu import Gated, JumpRelu, Relu
from diffdict.sae.selection import chosen_above, largest_of_batch, largest_of_tokens, starts_of
from diffdict.sae.sparse import Codes, Entries, decode_entries, encode_chosen
from diffdict.sae.topk import BatchTopK, Matryoshka, TopK

D, LATENTS, TOKENS = 12, 40, 17
TOLERANCE = 1e-5  # of the largest entry of a gradient


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= TOLERANCE * other.abs().max().clamp(min=1e-8))


def entries_of(active: torch.Tensor) -> Entries:
    token, latent = active.nonzero(as_tuple=True)
    return Entries(starts_of(token, len(active)), token, latent, active.shape[1])


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_decoding_entries_is_the_matrix_product_and_so_are_its_gradients(seed, share):
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(TOKENS, LATENTS, generator=generator) < share  # empty tokens too
    entries = entries_of(active)
    values = torch.randn(int(active.sum()), generator=generator, requires_grad=True)
    rows = torch.randn(LATENTS, D, generator=generator, requires_grad=True)
    weights = torch.randn(TOKENS, D, generator=generator)
    out = decode_entries(values, rows, entries)
    (out * weights).sum().backward()
    ours = values.grad.clone(), rows.grad.clone()
    values.grad = rows.grad = None
    dense = torch.zeros(TOKENS, LATENTS).index_put(active.nonzero(as_tuple=True), values)
    expected = dense @ rows
    (expected * weights).sum().backward()
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    if len(values):
        assert close(ours[0], values.grad)
    assert close(ours[1], rows.grad)


@given(seed=st.integers(0, 10_000), level=st.floats(-1, 3))
@settings(max_examples=30, deadline=None)
def test_encoding_at_entries_has_the_gradients_of_the_whole(seed, level):
    generator = torch.Generator().manual_seed(seed)
    x, centre, weight, bias = (
        torch.randn(*size, generator=generator).requires_grad_()
        for size in ((TOKENS, D), (D,), (LATENTS, D), (LATENTS,))
    )
    floor = torch.tensor(level)
    entries, values = encode_chosen(
        x, centre, weight, bias, lambda pre: chosen_above(pre, floor), together=seed % 2 == 0
    )
    weights = torch.randn(len(values), generator=generator)
    (values * weights).sum().backward()
    ours = [p.grad.clone() for p in (x, centre, weight, bias)]
    for p in (x, centre, weight, bias):
        p.grad = None
    pre = (x - centre) @ weight.T + bias
    expected = pre[entries.bags, entries.chosen]
    (expected * weights).sum().backward()
    assert torch.allclose(values, expected, atol=1e-5)
    for mine, parameter in zip(ours, (x, centre, weight, bias), strict=True):
        assert close(mine, parameter.grad) or not len(values)


def plain(sae, x):
    """The variant's loss, written without any of our parts."""
    dictionary = sae.dictionary
    pre = (x - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    if sae.architecture == "gated":
        codes = (sae.r_mag.exp() * (pre - sae.b_enc) + sae.b_mag).relu() * (pre > 0)
        gate = pre.relu() @ dictionary.detach() + sae.b_dec.detach()
        cost = sae.sparsity * pre.relu().sum() / x.numel() + (gate - x).square().mean()
    elif sae.architecture == "relu":
        codes = pre.relu()
        cost = sae.sparsity * codes.sum() / x.numel()
    else:
        k = sae.k * len(x) if sae.architecture != "topk" else sae.k
        chosen = (pre.flatten() if sae.architecture != "topk" else pre).topk(k, dim=-1).indices
        kept = torch.zeros_like(pre).flatten() if sae.architecture != "topk" else pre * 0
        kept = kept.scatter(-1, chosen, 1.0).view_as(pre)
        codes, cost = pre.relu() * kept, 0.0
    if sae.architecture == "matryoshka":
        ends = [int((sae.group < g + 1).sum()) for g in range(len(sae.groups))]
        nested = [codes[:, :end] @ dictionary[:end] + sae.b_dec for end in ends]
        return torch.stack([(out - x).square().mean() for out in nested]).mean()
    return (codes @ dictionary + sae.b_dec - x).square().mean() + cost


@pytest.mark.parametrize("normalise", ["step", "forward", "none"])
@pytest.mark.parametrize("by_entries", [True, False])
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (Relu, {}),
        (Gated, {}),
        (TopK, {"k": 5}),
        (BatchTopK, {"k": 5}),
        (Matryoshka, {"k": 5, "groups": [0.25, 0.25, 0.5]}),
    ],
)
def test_every_variant_has_the_gradients_of_its_plain_loss(make, options, by_entries, normalise):
    sae = make(D, latents=LATENTS, normalise=normalise, tied=False, **options)
    if hasattr(sae, "density"):
        sae.density.fill_(0.0 if by_entries else 1.0)
    with torch.no_grad():
        sae.W_dec.mul_(1.5)
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(TOKENS, D)
    out = sae(x)
    out.loss.backward()
    ours = {name: p.grad.clone() for name, p in sae.named_parameters()}
    sae.zero_grad()
    expected = plain(sae, x)
    expected.backward()
    assert torch.allclose(out.loss, expected, rtol=1e-5)
    for name, parameter in sae.named_parameters():
        assert close(ours[name], parameter.grad), name


@pytest.mark.parametrize("by_entries", [True, False])
def test_jumprelu_moves_thresholds_by_the_published_rectangle(by_entries):
    sae = JumpRelu(D, latents=LATENTS, sparsity=0.7, bandwidth=0.2, threshold=0.3, tied=False)
    sae.density.fill_(0.0 if by_entries else 1.0)
    x = torch.randn(TOKENS, D)
    sae(x).loss.backward()
    with torch.no_grad():
        pre = (x - sae.b_dec) @ sae.W_enc.T + sae.b_enc
        error = 2 * ((pre * (pre > 0.3)) @ sae.W_dec + sae.b_dec - x) / x.numel()
        inside = ((pre - 0.3).abs() < 0.1) & (pre > 0)
        to_code = error @ sae.W_dec.T
        each = inside * (to_code * (-0.3 / 0.2) - 0.7 / x.numel() / 0.2)
    assert inside.any()
    assert close(sae.threshold.grad, each.sum(0))


@pytest.mark.parametrize("crowd", [3, 30])
def test_auxiliary_gradients_are_autograds_dense_or_by_entry(crowd, monkeypatch):
    monkeypatch.setattr("diffdict.sae.topk.CROWDED", 5)
    sae = TopK(D, latents=LATENTS, k=3, aux_k=2, dead_after=1, tied=False)
    sae.silent[:crowd] = 1
    x = torch.randn(TOKENS, D)
    out = sae(x)
    out.loss.backward()
    ours = {name: p.grad.clone() for name, p in sae.named_parameters()}
    sae.zero_grad()
    pre = (x - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    codes = pre.relu() * torch.zeros_like(pre).scatter(1, pre.topk(3).indices, 1.0)
    error = x - codes @ sae.W_dec - sae.b_dec
    frozen = ((x - sae.b_dec.detach()) @ sae.W_enc.T + sae.b_enc)[:, :crowd]
    some = frozen.relu() * torch.zeros_like(frozen).scatter(1, frozen.topk(2).indices, 1.0)
    explained = some @ sae.W_dec[:crowd]
    left = error.detach()
    aux = (explained - left).square().mean() / left.square().mean()
    (error.square().mean() + sae.aux_weight * aux).backward()
    assert torch.allclose(out.parts["aux"], aux, rtol=1e-5)
    for name, parameter in sae.named_parameters():
        assert close(ours[name], parameter.grad), name


@given(seed=st.integers(0, 1000), k=st.integers(1, 20), half=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_largest_of_a_token_are_torchs(seed, k, half):
    pre = torch.randn(5, 320, generator=torch.Generator().manual_seed(seed))
    pre = pre.bfloat16() if half else pre
    starts, tokens, chosen, values = largest_of_tokens(pre, k)
    assert starts.tolist() == list(range(0, 5 * k + 1, k))
    assert torch.equal(values, pre[tokens, chosen])
    assert torch.equal(values.view(5, k).sort(descending=True).values, pre.topk(k).values)


def test_tokens_in_pieces_are_the_tokens_at_once(monkeypatch):
    torch.manual_seed(0)
    x, centre, weight, bias = torch.randn(TOKENS, D), torch.randn(D), torch.randn(LATENTS, D), 0.1
    choose = lambda pre: largest_of_tokens(pre, 3)  # noqa: E731
    ask = (x, centre, weight, torch.full((LATENTS,), bias), choose)
    whole, values = encode_chosen(*ask)
    monkeypatch.setattr(sparse, "PIECE", 5 * LATENTS)  # 17 tokens: three pieces and two tokens
    pieces, others = encode_chosen(*ask)
    assert torch.equal(pieces.starts, whole.starts)
    assert torch.equal(pieces.bags, whole.bags)
    order, same = (e.bags * LATENTS + e.chosen for e in (whole, pieces))
    assert torch.equal(same.sort().values, order.sort().values)
    torch.testing.assert_close(others[same.argsort()], values[order.argsort()])


@given(seed=st.integers(0, 1000), k=st.integers(1, 30), shift=st.floats(-3, 1))
@settings(max_examples=40, deadline=None)
def test_the_largest_of_a_batch_are_torchs_positive_ones(seed, k, shift):
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randn(64, 80, generator=generator) + shift
    pre[: seed % 64] *= 10  # tokens are not alike: the guess from a sample may be far off
    (starts, tokens, latents, kept), least = largest_of_batch(pre, k)
    expected = pre.flatten().topk(64 * k).values
    expected = expected[expected > 0]
    assert torch.equal(tokens, torch.arange(64).repeat_interleave(starts.diff()))
    values = pre[tokens, latents]
    assert torch.equal(values, kept)
    assert torch.equal(values.sort(descending=True).values, expected)
    assert not len(values) or least == values.min()


def test_codes_as_a_matrix():
    starts, latents = torch.tensor([0, 2, 2, 3]), torch.tensor([3, 0, 1])
    codes = Codes(starts, latents, torch.tensor([1.0, 2.0, 0.0]))
    assert codes.dense(4).tolist() == [[2, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert codes.l0.item() == pytest.approx(2 / 3)
