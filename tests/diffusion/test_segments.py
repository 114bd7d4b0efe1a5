"""Laws of the parts of a code: they nest, are disjoint, cover; and the published tables."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffdict.diffusion.segments import CodeSegments
from diffdict.errors import UserError

STAGES = {"stages": [50, 100, 300, 500, 1000], "dims": [10, 25, 327, 100, 50]}


@st.composite
def segments(draw):
    """Any parts of a code on a short chain: balanced, in stages, or counted stage by stage."""
    steps, code = draw(st.integers(10, 60)), draw(st.integers(10, 40))
    number = draw(st.integers(1, 10))
    kind = draw(st.sampled_from(["balanced", "stages", "counted"]))
    if kind == "balanced":
        return CodeSegments(code, number, steps=steps)
    middle = draw(st.integers(1, steps - 1))
    dims = draw(st.integers(0, code))
    counts = number if kind == "stages" else [draw(st.integers(1, 4)), draw(st.integers(1, 4))]
    try:
        return CodeSegments(code, counts, [middle, steps], [dims, code - dims], steps)
    except UserError:  # a stage shorter than a segment
        return CodeSegments(code, number, steps=steps)


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("celeba64_diti64", STAGES),
        ("celeba64_diti64_balanced", {}),
        ("ffhq_diti64", STAGES),
        ("bedroom128_diti64", STAGES),
        ("uniform.k10.latent37", {"code": 37, "number": 10}),
    ],
)
def test_published_ends(golden, case, settings):
    golden("diti_masks").check(f"{case}.end_dims", CodeSegments(**settings).ends)


def test_published_timesteps(golden):
    golden("diti_masks").check("t_to_idx.k64", CodeSegments().of(torch.arange(1000)))


@given(segments())
def test_prefixes_nest_and_end_with_the_whole_code(parts):
    prefix = parts.prefix(torch.arange(parts.steps))
    assert (prefix[1:] >= prefix[:-1]).all()
    assert prefix[-1].all()


@given(segments())
def test_own_parts_are_disjoint_and_cover(parts):
    t = torch.arange(parts.steps)
    segment = parts.of(t)
    assert segment[0] == 0
    assert (segment.diff() >= 0).all()
    assert segment.unique().tolist() == list(range(parts.total))
    own = parts.own(t)
    firsts = torch.tensor([int((segment == i).nonzero()[0, 0]) for i in range(parts.total)])
    assert (own[firsts].sum(0) == 1).all()
    assert torch.equal(own[firsts].cumsum(0).bool(), parts.prefix(t[firsts]))


def test_a_prefix_is_the_earlier_parts_and_its_own():
    parts, t = CodeSegments(**STAGES), torch.tensor([0, 49, 50, 333, 999])
    earlier = parts.prefix(t) & ~parts.own(t)
    ends = [0, *parts.ends.tolist()]
    assert earlier.sum(1).tolist() == [ends[i] for i in parts.of(t).tolist()]


def test_segments_counted_for_each_stage_share_its_own_length():
    parts = CodeSegments(32, [4, 4, 8], [100, 400, 1000], [8, 8, 16])
    t = torch.tensor([0, 24, 25, 99, 100, 174, 175, 399, 400, 474, 475, 999])
    assert parts.of(t).tolist() == [0, 0, 1, 3, 4, 4, 5, 7, 8, 8, 9, 15]
    assert parts.ends.tolist() == list(range(2, 33, 2))


def test_the_last_segment_of_a_stage_takes_the_rest():
    assert CodeSegments(10, 4, [50, 100], [3, 7], 100).ends.tolist() == [1, 3, 6, 10]


def test_lists_as_the_published_configs_have_them():
    theirs = CodeSegments(512, 64, "50,100,300,500,1000", "10,25,327,100,50")
    ours = CodeSegments(512, 64, [50, 100, 300, 500, 1000], (10, 25, 327, 100, 50))
    assert theirs == ours
    assert hash(theirs) == hash(ours)


def test_a_segment_belongs_to_the_stage_of_its_first_timestep():
    parts = CodeSegments(12, 3, [34, 100], [4, 8], 100)  # they begin at 0, 34 and 67
    assert parts.per_stage == (1, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"number": 0}, "number of segments lies in 1..512, as many"),
        ({"number": 513}, "number of segments lies in 1..512, as many"),
        ({"number": 101, "steps": 100}, "number of segments lies in 1..100, as many"),
        ({"stages": [1000]}, "stages come with dims, got stages alone"),
        ({"dims": [512]}, "dims come with stages, got dims alone"),
        ({"number": [4, 4]}, "a list of one count a stage only with stages, got [4, 4]"),
        ({"stages": [100, 100, 1000], "dims": [1, 1, 510]}, "stages rise from above 0 and end"),
        ({"stages": [0, 1000], "dims": [0, 512]}, "stages rise from above 0 and end"),
        ({"stages": [100, 900], "dims": [12, 500]}, "got [100, 900]: let the last one be 1000"),
        ({"stages": [], "dims": []}, "stages rise from above 0 and end"),
        ({"stages": [100, 1000], "dims": [512]}, "got [512] for 2 stages, together 512"),
        ({"stages": [100, 1000], "dims": [12, 501]}, "for 2 stages, together 513"),
        ({"stages": [100, 1000], "dims": [-1, 513]}, "dims are one number a stage"),
        ({"number": [4], "stages": [9, 1000], "dims": [1, 511]}, "one count a stage, got [4] for"),
        ({"number": 4, "stages": [9, 99, 1000], "dims": [1, 1, 510]}, "with [1, 0, 3] segments"),
        ({"number": [9, 1], "stages": [8, 1000], "dims": [9, 503]}, "got stages=[8, 1000]"),
        ({"stages": "a,1000", "dims": [9, 503]}, "stages of segments is whole numbers, got 'a,10"),
    ],
)
def test_parts_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        CodeSegments(**settings)


def test_modes_agree_in_value_and_differ_in_what_learns():
    parts, t = CodeSegments(8, 4, steps=100), torch.tensor([10, 60])
    gradients = {}
    for mode in ("base", "stop_grad", "dual"):
        codes = torch.arange(1.0, 17.0).reshape(2, 8).requires_grad_()
        opened = parts.opened(codes, t, mode)
        assert torch.equal(opened, codes * parts.prefix(t))
        (opened**2).sum().backward()
        gradients[mode] = codes.grad
    learning = {mode: gradient != 0 for mode, gradient in gradients.items()}
    assert torch.equal(learning["base"], parts.prefix(t))
    assert torch.equal(learning["stop_grad"], parts.own(t))
    assert torch.equal(2 * gradients["dual"], gradients["base"] + gradients["stop_grad"])


def test_an_unknown_mode():
    with pytest.raises(UserError, match="mode is one of base, stop_grad, dual, got 'both'"):
        CodeSegments(8, 4).opened(torch.zeros(1, 8), torch.zeros(1, dtype=torch.int64), "both")
