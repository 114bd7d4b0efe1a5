"""The schedule of a shuffle is a pure function: every strip once, entered anywhere, same seeds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from diffdict.features.tokens.windows import Windows
from diffdict.seeds import mix

counts = st.fixed_dictionaries(
    {
        "units": st.integers(1, 200),
        "strip": st.integers(1, 20),
        "batch": st.integers(1, 60),
        "window": st.integers(1, 400),
        "world": st.integers(1, 4),
    }
)


@settings(max_examples=60, deadline=None)
@given(counts=counts, seed=st.integers(0, 3), epoch=st.integers(0, 3))
def test_the_schedule_deals_every_strip_once_but_for_the_tail(counts, seed, epoch):
    windows = Windows(**counts)
    strip, batch, world = counts["strip"], counts["batch"], counts["world"]
    seen, emitted = [], 0
    for rank in range(world):
        batches = 0
        for units, order, first in windows.walk(seed, epoch, rank):
            assert first == 0
            assert len(order) % batch == 0
            assert len(set(order.tolist())) == len(order) <= len(units) * strip
            assert len(order) <= max(counts["window"], batch, strip)
            seen += units.tolist()
            emitted += len(order)
            batches += len(order) // batch
        assert batches == len(range(windows.batches))
    assert len(set(seen)) == len(seen)
    lost = counts["units"] * strip - emitted
    per_rank = 2 * batch + strip * (len(windows.counts) + 1)
    assert 0 <= lost <= per_rank * world


@settings(max_examples=40, deadline=None)
@given(counts=counts, share=st.floats(0, 1))
def test_the_schedule_can_be_entered_anywhere(counts, share):
    windows = Windows(**counts)
    taken, batch = int(windows.batches * share), counts["batch"]
    rank = counts["world"] - 1

    def tokens(taken):
        return [
            (units.tolist(), part.tolist())
            for units, order, first in windows.walk(1, 2, rank, taken)
            for part in order.split(batch)[first:]
        ]

    assert tokens(taken) == tokens(0)[taken:]


def test_seeds_are_mixed_the_same_everywhere():
    assert mix(0) == 0xE220A8397B1DCDAF >> 1  # SplitMix64's first output from state 0
    assert len({mix(a, b) for a in range(50) for b in range(50)}) == 2500
    assert mix(1, 2) != mix(2, 1)
