"""Mean, scale and off-centre norm: of all tokens and of each stream, stored or live, exactly."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from diffdict.errors import UserError
from diffdict.features.normalisation import normalisation
from diffdict.features.sources import LiveSource, StoredSource
from diffdict.features.store.shards import Stream
from diffdict.features.tokens import moments, pool
from diffdict.features.tokens.moments import measure_tokens
from diffdict.features.tokens.pool import LivePool, StoredPool

PICTURES, SIDE = 12, 4
TOKENS = SIDE * SIDE
KINDS = [(50, 4, 3, 5.0), (50, "mid", 2, 0.5), (150, 4, 3, -20.0)]  # the last: channels, offset


def maps(same_width=False, dtype=torch.float32):
    """Streams and their maps, [pictures, tokens, channels], each with its own spread and offset."""
    generator = torch.Generator().manual_seed(0)
    streams, made = [], []
    for number, (timestep, block, channels, offset) in enumerate(KINDS):
        channels = 3 if same_width else channels
        streams.append(Stream(channels, SIDE, SIDE, "fp32", timestep, block))
        x = torch.randn(PICTURES, TOKENS, channels, generator=generator)
        made.append((x * (number + 1) + offset).to(dtype))
    return streams, made


class Kept(StoredSource):
    """A store in memory, in one shard."""

    def __init__(self, streams, made):
        held = dict(zip([stream.name for stream in streams], made, strict=True))
        self.streams, self.dtype = streams, made[0].dtype
        self.normalisation = normalisation()
        self.store = SimpleNamespace(tokens=lambda name: [held[name]], pictures_per_shard=PICTURES)


class Seen(LiveSource):
    """A backbone that has seen it all."""

    def __init__(self, streams, made):
        self.streams, self.made, self.dtype = streams, made, made[0].dtype
        self.normalisation = normalisation()
        self.device, self.batch_size = torch.device("cpu"), 5

    def maps(self, pictures):
        return [x[pictures] for x in self.made]


def stored(streams, made, mix):
    return StoredPool(Kept(streams, made), range(PICTURES), mix, 8, sample=10**6)


def live(streams, made, mix):
    return LivePool(Seen(streams, made), range(PICTURES), mix, sample=10**6)


def norm(x):
    """‖μ‖ / ‖σ‖ by the book."""
    x = x.flatten(0, -2).double()
    return (x.mean(0).norm() / x.var(0, correction=0).sum().sqrt()).item()


@pytest.mark.parametrize("make", [stored, live])
def test_streams_side_by_side(make):
    streams, made = maps()
    got = measure_tokens(make(streams, made, "concat"))
    every = torch.cat(made, dim=2)
    assert got.gamma == pytest.approx(norm(every))
    expected = [(50, 4, 0, 3), (50, "mid", 3, 5), (150, 4, 5, 8)]
    assert [tuple(dim.values())[:4] for dim in got.dims] == expected
    assert [[*dim] for dim in got.dims] == [["timestep", "block", "from", "to", "gamma"]] * 3
    assert [dim["gamma"] for dim in got.dims] == pytest.approx([norm(x) for x in made])
    assert got.dims[2]["gamma"] > 4 > 1 > got.dims[1]["gamma"]
    spans = [got.mean[dim["from"] : dim["to"]] for dim in got.dims]
    for mean, x in zip(spans, made, strict=True):
        torch.testing.assert_close(mean, x.double().mean((0, 1)).float())


@pytest.mark.parametrize("make", [stored, live])
def test_streams_as_more_tokens(make):
    streams, made = maps(same_width=True)
    got = measure_tokens(make(streams, made, "stack"))
    every = torch.cat(made)
    assert got.gamma == pytest.approx(norm(every))
    assert {(dim["from"], dim["to"]) for dim in got.dims} == {(0, 3)}
    assert [dim["gamma"] for dim in got.dims] == pytest.approx([norm(x) for x in made])
    torch.testing.assert_close(got.mean, every.double().mean((0, 1)).float())
    tokens = (every.flatten(0, 1) - got.mean) * got.scale
    assert tokens.square().sum(1).mean().item() == pytest.approx(3, rel=1e-5)


@pytest.mark.parametrize("mix", ["concat", "stack"])
def test_a_few_tokens_at_once_make_the_same_sums(mix, monkeypatch):
    source = stored(*maps(same_width=True), mix)
    units = torch.arange(source.units)
    whole = moments.moments(source, units)
    monkeypatch.setattr(pool, "AT_ONCE", 24)
    for ours, theirs in zip(moments.moments(source, units), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_the_facts_of_dimensions_are_plain():
    dims = measure_tokens(live(*maps(), "concat")).dims
    assert json.loads(json.dumps(dims)) == dims
    assert {type(dim["gamma"]) for dim in dims} == {float}


def test_far_off_centre_tokens_keep_their_spread():
    streams, made = maps(dtype=torch.float64)
    far = measure_tokens(live(streams, [x + 1e5 for x in made], "concat"))
    assert far.scale == pytest.approx(measure_tokens(live(streams, made, "concat")).scale, rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e4])
def test_a_stream_that_never_changes_is_told_from_the_rest(value):
    streams, made = maps(dtype=torch.float64)  # in which sums are rounded
    made[1] = torch.full_like(made[1], value)
    got = measure_tokens(stored(streams, made, "concat"))
    assert got.dims[1]["gamma"] == math.inf
    assert math.isfinite(got.gamma)
    made = [torch.full_like(x, value) for x in made]
    with pytest.raises(UserError, match="All tokens are the same"):
        measure_tokens(stored(streams, made, "concat"))


@pytest.mark.parametrize("mix", ["concat", "stack"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_tokens_that_are_no_numbers_are_refused_by_name(mix, value):
    streams, made = maps(same_width=True)
    made[2][3, 1, 0] = value
    with pytest.raises(UserError, match=r"Tokens of t0150-b04 hold NaN or infinity.*data\.dtype"):
        measure_tokens(live(streams, made, mix))
