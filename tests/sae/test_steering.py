"""Laws of steering: what it leaves to the bit, what it takes away, and where."""

from functools import partial

import pytest
import torch

from diffdict.diffusion.objectives import Objective, interpret
from diffdict.diffusion.schedules import make_schedule
from diffdict.errors import UserError
from diffdict.sae.relu import Relu
from diffdict.sae.steering import TILE, Steering, mask_shares, number_above, rivals_of
from diffdict.sae.topk import TopK
from tests.sae.test_variants import LATENTS, MAKERS, D, every, trained
from tests.tasks.test_samples import network

SOME = [3, 9, 17, 40]


@pytest.fixture(scope="module")
def tokens():
    return 5 + 3 * torch.randn(96, D, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def learned(tokens):
    made = {}

    def learn(name):
        if name not in made:
            maker = MAKERS[name]
            made[name] = trained(maker(mean=tokens.mean(0), token_scale=1 / 3), tokens)
        return made[name]

    return learn


def as_map(tokens):
    """Two pictures of 6 × 8 tokens."""
    return tokens.view(2, 6, 8, D).permute(0, 3, 1, 2).contiguous()


def as_tokens(x):
    return x.permute(0, 2, 3, 1).flatten(0, 2)


T = torch.tensor([100, 300])


@every
def test_what_changes_no_code_changes_no_bit(name, learned, tokens):
    sae, x = learned(name), as_map(tokens)
    x[0, 0, 0, 0] = -0.0
    assert Steering(sae, SOME, amount=1)(x, T) is x
    assert Steering(sae, [])(x, T) is x
    one = x[:1, :, :1, :1]
    own = Steering(sae, SOME).active_codes(as_tokens(one)).codes
    own = own[0] if len(own) else torch.zeros(len(SOME))
    clamped = Steering(sae, SOME, "clamp", 1.0, unit=own)(one, T[:1])
    assert torch.equal(clamped.view(torch.int32), one.contiguous().view(torch.int32))
    silent = Steering(sae, SOME, amount=0)(x, T)
    codes = sae.encode(as_tokens(x))[:, SOME]
    kept = ~(codes != 0).any(1)
    assert 0 < kept.sum() < len(kept) or name == "relu"
    same = (as_tokens(silent) == as_tokens(x)).all(1)
    assert torch.equal(same, kept)


@every
def test_ablating_all_leaves_the_error_and_the_centre(name, learned, tokens):
    sae, x = learned(name), as_map(tokens)
    left = as_tokens(Steering(sae, range(LATENTS), amount=0)(x, T))
    error = tokens - sae.decode(sae.encode(tokens))
    centre = sae.raw(sae.b_dec[None])
    assert torch.allclose(left, error + centre, atol=1e-3)


@every
def test_the_codes_are_those_of_inference(name, learned, tokens):
    sae = learned(name)
    found = Steering(sae, SOME).active_codes(tokens)
    codes = sae.encode(tokens)[:, SOME]
    assert torch.allclose(found.codes, codes[found.tokens], atol=1e-5)
    others = torch.ones(len(tokens), dtype=torch.bool)
    others[found.tokens] = False
    assert not codes[others].any()


@every
def test_the_map_is_affine_in_the_amount_and_disjoint_sets_add(name, learned, tokens):
    sae, x = learned(name), as_map(tokens)

    def change(latents, amount, how="scale"):
        return Steering(sae, latents, how, amount)(x, T) - x

    assert torch.allclose(change(SOME, -5), 3 * change(SOME, -1), atol=1e-4)
    assert torch.allclose(change(SOME, 0), change(SOME[:1], 0) + change(SOME[1:], 0), atol=1e-4)
    middle = (change(SOME, 0, "clamp") + change(SOME, 4, "clamp")) / 2
    assert torch.allclose(change(SOME, 2, "clamp"), middle, atol=1e-4)
    assert torch.allclose(change(SOME, 4, "add"), -2 * change(SOME, -2, "add"), atol=1e-4)


@pytest.mark.parametrize("how", ["scale", "clamp", "add"])
def test_outside_mask_and_window_no_bit_changes(how, learned, tokens):
    sae, x = learned("topk"), as_map(tokens)
    mask = torch.zeros(6, 8)
    mask[:3] = 1
    whole = Steering(sae, SOME, how, 3.0)(x, T)
    half = Steering(sae, SOME, how, 3.0, where=mask)(x, T)
    assert torch.equal(half[:, :, 3:], x[:, :, 3:])
    assert torch.allclose(half[:, :, :3], whole[:, :, :3], atol=1e-5)
    fine = mask.repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(Steering(sae, SOME, how, 3.0, where=fine)(x, T), half)
    early = Steering(sae, SOME, how, 3.0, window=(200, 301))(x, T)
    assert torch.equal(early[0], x[0])
    assert torch.allclose(early[1], whole[1], atol=1e-5)
    assert Steering(sae, SOME, how, 3.0, window=[101, 300])(x, T) is x
    each = torch.stack([torch.zeros_like(mask), mask])
    assert torch.equal(Steering(sae, SOME, how, 3.0, where=each)(x, T)[0], x[0])


def test_units_are_what_add_and_clamp_are_measured_in(learned, tokens):
    sae, x = learned("relu"), as_map(tokens)
    units = torch.tensor([1.0, 2, 0, 0.5])
    added = as_tokens(Steering(sae, SOME, "add", 2.0, unit=units)(x, T) - x)
    row = 2 * (units @ sae.dictionary[SOME]) / sae.token_scale
    assert torch.allclose(added, row.expand_as(added), atol=1e-4)
    clamped = Steering(sae, SOME, "clamp", 2.0, unit=units)
    codes = sae.encode(tokens)
    codes[:, SOME] = 2 * units
    wanted = tokens - sae.decode(sae.encode(tokens)) + sae.decode(codes)
    assert torch.allclose(as_tokens(clamped(x, T)), wanted, atol=1e-3)


def test_one_row_is_moved_in_closed_form():
    sae = Relu(2, latents=2, standardise=False)
    with torch.no_grad():
        sae.W_dec.copy_(torch.eye(2))
        sae.W_enc.copy_(torch.eye(2))
    x = torch.tensor([[3.0, 5], [-1, 4]]).T[None, :, :, None]
    moved = Steering(sae, [0], amount=-2.0)(x, torch.tensor([7]))
    assert torch.equal(moved[0, :, :, 0].T, torch.tensor([[-6.0, 5], [-1, 4]]))


def test_what_a_linear_network_predicts_moves_as_it_is_reckoned(learned, tokens):
    """Through a linear network the edit's effect on x0 is known in closed form."""
    sae, x_t, t = learned("topk"), torch.randn(2, 3, 4, 4), torch.tensor([7, 7])
    into, out = torch.randn(D, 3), torch.randn(3, D)
    schedule, reading = make_schedule("linear", 100), Objective("eps", "fixed_small")

    def x0_of(edit=None):
        h = 5 + torch.einsum("dc,bchw->bdhw", into, x_t)
        h = h if edit is None else edit(h, t)
        eps = torch.einsum("cd,bdhw->bchw", out, h)
        return interpret(reading, schedule, eps, x_t, t).x0

    rows = 5 + torch.einsum("dc,bchw->bhwd", into, x_t).reshape(-1, D)
    codes = sae.encode(rows)[:, SOME]
    moved = -3 * codes @ sae.dictionary[SOME] / sae.token_scale @ out.T
    assert moved.abs().max() > 0
    share = float((1 / schedule.alphas_cumprod[7] - 1) ** 0.5)
    wanted = -share * moved.view(2, 4, 4, 3).permute(0, 3, 1, 2)
    steered = x0_of(Steering(sae, SOME, amount=-2)) - x0_of()
    torch.testing.assert_close(steered, wanted, atol=1e-4, rtol=1e-4)


def test_dtype_and_layout_stay_as_the_network_has_them(learned, tokens):
    sae, x = learned("topk"), as_map(tokens)
    steering = Steering(sae, SOME)
    wide = steering(x, T)
    last = steering(x.to(memory_format=torch.channels_last), T)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert wide.is_contiguous()
    assert torch.equal(last, wide)
    half = steering(x.bfloat16(), T)
    assert half.dtype == torch.bfloat16
    kept = (as_tokens(wide) == tokens).all(1)
    assert torch.equal(as_tokens(half)[kept], as_tokens(x.bfloat16())[kept])
    assert (half.float() - wide).abs().max() < 0.25


def test_tiles_change_nothing(learned, tokens, monkeypatch):
    sae, x = learned("topk"), as_map(tokens)
    whole = Steering(sae, SOME, amount=0)(x, T)
    monkeypatch.setattr("diffdict.sae.steering.TILE", 7 * LATENTS)
    assert TILE > 7 * LATENTS
    assert torch.allclose(Steering(sae, SOME, amount=0)(x, T), whole, atol=1e-5)


def test_concatenated_maps_take_the_rows_part_of_the_nearest_timestep(tokens):
    sae = TopK(2 * D, k=4, latents=LATENTS)
    parts = {50: slice(0, D), 400: slice(D, 2 * D)}
    x = as_map(tokens)
    moved = Steering(sae, SOME, "add", 3.0, parts=parts)(x, torch.tensor([200, 300])) - x
    row = 3 * sae.dictionary[SOME].sum(0)
    assert torch.allclose(moved[0, :, 2, 2], row[:D], atol=1e-4)
    assert torch.allclose(moved[1, :, 2, 2], row[D:], atol=1e-4)
    with pytest.raises(UserError, match=r"cannot encode a single pass: how=add"):
        Steering(sae, SOME, parts=parts)
    with pytest.raises(UserError, match=r"width 32, the block to be steered has 16"):
        Steering(sae, SOME)(x, T)


def test_a_network_goes_on_with_the_steered_map():
    net, images = network(), torch.randn(2, 3, 16, 16)
    block, (channels, *_) = next(iter(net.shapes.items()))
    sae = Relu(channels, latents=2 * channels)
    t = torch.tensor([5, 5])
    plain = net(images, t)
    off = net(images, t, edits={block: Steering(sae, [0, 1], amount=1)})
    assert torch.equal(off, plain)
    on = net(images, t, edits={block: Steering(sae, range(2 * channels), amount=-2)})
    assert not torch.equal(on, plain)
    late = net(images, t, edits={block: Steering(sae, [0, 1], window=(6, 9))})
    assert torch.equal(late, plain)


REFUSED = {
    "how is": {"how": "sclae"},
    "amount is a finite": {"amount": float("nan")},
    "got inf": {"amount": float("inf")},
    "latents 0 to 63, got 64": {"latents": [64]},
    "name 3 twice": {"latents": [3, 4, 3]},
    "whole number, got 'a'": {"latents": ["a"]},
    "rises, got": {"window": [5, 5]},
    r"one a latent \(2\)": {"unit": [1.0, 2.0, 3.0]},
    "no number": {"unit": float("nan")},
    "where is empty": {"where": torch.zeros(4, 4)},
    "other values": {"where": torch.full((4, 4), 2.0)},
    r"\[height, width\]": {"where": torch.ones(4)},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_means_nothing_is_refused_in_words(words, learned):
    settings = {"latents": [1, 2], **REFUSED[words]}
    with pytest.raises(UserError, match=words):
        Steering(learned("topk"), settings.pop("latents"), **settings)


def test_a_mask_of_another_size_is_refused():
    fit = partial(mask_shares, size=(2, 4, 4))
    assert fit(torch.ones(1, 8, 8)).shape == (2, 4, 4)
    for shape in ((1, 6, 6), (3, 4, 4), (1, 8, 4), (1, 2, 2)):
        with pytest.raises(UserError, match=r"the map's size \(4×4\)"):
            fit(torch.ones(shape))


def test_rivals_are_all_latents_once_the_most_frequent_first():
    sae = TopK(D, k=2, latents=100)
    sae.frequency.copy_(torch.rand(100, generator=torch.Generator().manual_seed(0)))
    rivals = rivals_of(sae)
    assert [len(part) for part in rivals] == [24, 24, 48, 4]
    assert torch.equal(torch.cat(rivals), sae.frequency.argsort(descending=True))
    assert rivals_of(Relu(D, latents=100)) == rivals_of(TopK(D, k=9, latents=9)) == []
    values = torch.randn(5, 7)
    bound = values.median(1, keepdim=True).values
    assert number_above(values, bound, 1).tolist() == [3] * 5


def test_tokens_that_are_passed_over_have_no_code():
    generator = torch.Generator().manual_seed(2)
    x = 7 + torch.randn(2, D, 16, 16, generator=generator)
    tokens = as_tokens(x)
    sae = TopK(D, tokens.mean(0), 1.0, latents=400, k=4).eval()
    steering = Steering(sae, SOME)
    able = steering._able(x, torch.ones(512))
    codes = sae.encode(tokens)[:, SOME]
    assert not codes[~able].any()
    assert codes.any(1).sum() <= able.sum() < 400, "most are passed over"
    wanted = tokens + (-3 * codes) @ sae.dictionary[SOME] / sae.token_scale
    assert torch.allclose(as_tokens(steering(x, T)), wanted, atol=1e-4)
