"""Counts latent × class: against dense codes at full resolution, in any split, on two ranks."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from diffdict.bilinear.cells import find_cells
from diffdict.errors import UserError
from diffdict.metrics.concepts import counting, entries
from diffdict.metrics.concepts import pre_activations as pieces
from diffdict.metrics.concepts.activations import find_floors
from diffdict.metrics.concepts.counting import count_cells, label_cells
from diffdict.metrics.concepts.entries import above_pixels, count_entries
from diffdict.metrics.concepts.overlap import Concepts, fit
from diffdict.sae.relu import Gated, JumpRelu, Relu
from diffdict.sae.topk import BatchTopK, Matryoshka, TopK
from tests.processes import in_processes

NAMES = ("skin", "hair", "eye", "hat", "ear")  # no picture has a hat
D, LATENTS = 7, 40
CLOSE = 1e-4  # pre-activations nearer to a border may fall on either side of it
VARIANTS = {
    "relu": lambda: Relu(D, latents=LATENTS),
    "gated": lambda: Gated(D, latents=LATENTS),
    "jumprelu": lambda: JumpRelu(D, latents=LATENTS, threshold=0.4),
    "topk": lambda: TopK(D, latents=LATENTS, k=5),
    "batch_topk": lambda: BatchTopK(D, latents=LATENTS, k=5),
    "matryoshka": lambda: Matryoshka(D, latents=LATENTS, k=5, groups=(0.25, 0.75)),
}


def made(name, seed=0):
    """A dictionary with parameters that are not where they start."""
    torch.manual_seed(seed)
    sae = VARIANTS[name]().requires_grad_(False)
    sae.b_enc.normal_(-0.3, 0.3)
    for also in ("r_mag", "b_mag"):
        if hasattr(sae, also):
            getattr(sae, also).normal_(0, 0.5)
    if name in ("batch_topk", "matryoshka"):
        sae.threshold.fill_(0.5)
    return sae


def pictures(number=2, grid=(5, 6), size=(21, 17), seed=1):
    """Maps and masks; label 9 is to be ignored."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(number, D, *grid, generator=generator)
    coarse = torch.tensor([0, 1, 2, 4, 9])[torch.randint(5, (number, 4, 3), generator=generator)]
    mask = F.interpolate(coarse[:, None].double(), size=size)[:, 0].long()
    return maps, mask


def pre_of(sae, maps):
    """Pre-activations on demand."""

    def pre(part, rows=slice(None)):
        some = maps[:, :, rows]
        tokens = some.permute(0, 2, 3, 1).flatten(0, 2)
        return sae.pre(tokens, part).view(len(maps), *some.shape[2:], -1).permute(0, 3, 1, 2)

    return pre


def metric_of(sae, thresholds=None, ignore_label=9):
    ranked = sae.k if sae.architecture == "topk" else None
    if thresholds is None:
        floors = torch.zeros(LATENTS) if ranked else find_floors(sae.activate, LATENTS)
        thresholds = floors[:, None]
    return Concepts(NAMES, thresholds, ranked=ranked, ignore_label=ignore_label)


def dense(sae, maps, size):
    """Codes as the notebook makes them: features upsampled, every pixel encoded."""
    pixels = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    tokens = pixels.permute(0, 2, 3, 1).flatten(0, 2)
    return sae.pre(tokens), sae.encode(tokens)


def one_hot(mask):
    return torch.stack([mask.flatten() == c for c in range(len(NAMES))]).double()


def unsure(sae, pre):
    """Pixels × latents that lie on a border to within rounding."""
    if sae.architecture != "topk":
        return (pre - find_floors(sae.activate, LATENTS)).abs() < CLOSE
    kept, left = pre.topk(sae.k + 1).values[:, -2:, None].unbind(1)
    tie = (kept - left < CLOSE) & ((pre - kept).abs() < 2 * CLOSE)
    return (pre.abs() < CLOSE) | tie


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(
    ("grid", "size"),
    [
        ((5, 6), (21, 17)),  # no whole number of pixels a token
        ((4, 4), (32, 16)),
        ((8, 4), (8, 4)),  # a pixel is a token
        ((9, 7), (5, 4)),  # masks smaller than maps
        ((1, 3), (6, 5)),
        ((2, 1), (2, 40)),  # more than 256 pixels between four tokens
    ],
)
def test_counts_are_those_of_dense_codes_at_full_resolution(name, grid, size):
    sae = made(name)
    maps, mask = pictures(3, grid, size)
    metric = metric_of(sae)
    metric.update(pre_of(sae, maps), mask)
    counts = metric.compute()
    pre, codes = dense(sae, maps, size)
    classes = one_hot(mask)
    expected = classes @ (codes > 0).double()
    slack = classes @ unsure(sae, pre).double()
    assert slack.sum() <= 0.01 * expected.sum()
    assert ((counts.intersections[0] - expected).abs() <= slack).all()
    assert counts.pixels.tolist() == classes.sum(1).tolist()
    assert counts.ignored == (mask == 9).sum()
    assert counts.intersections.dtype == counts.pixels.dtype == torch.int64
    torch.testing.assert_close(counts.active, counts.intersections.sum(1))


@pytest.mark.parametrize("name", ["relu", "topk"])
@pytest.mark.parametrize("size", [(21, 17), (5, 6)])
def test_every_threshold_is_counted(name, size):
    sae = made(name)
    maps, mask = pictures(size=size)
    thresholds = torch.rand(LATENTS, 4).sort(1).values
    thresholds[:, 0], thresholds[3, 2:] = 0, torch.inf
    metric = metric_of(sae, thresholds)
    metric.update(pre_of(sae, maps), mask)
    counts = metric.compute()
    pre, codes = dense(sae, maps, size)
    for i, threshold in enumerate(thresholds.T):
        expected = one_hot(mask) @ (codes > threshold).double()
        near = unsure(sae, pre) | ((pre - threshold).abs() < CLOSE)
        assert ((counts.intersections[i] - expected).abs() <= one_hot(mask) @ near.double()).all()
    assert counts.active[2:, 3].sum() == 0


@pytest.mark.parametrize("name", ["relu", "topk"])
@pytest.mark.parametrize("size", [(21, 17), (5, 6)])
def test_pieces_do_not_matter(name, size, monkeypatch):
    sae = made(name)
    maps, mask = pictures(size=size)
    whole, cut, given = metric_of(sae), metric_of(sae), metric_of(sae)
    whole.update(pre_of(sae, maps), mask)
    given.update(pre_of(sae, maps)(slice(None)), mask)
    monkeypatch.setattr(pieces, "PIECE", 2 * 6 * LATENTS)  # single rows, a few latents
    monkeypatch.setitem(counting.ENTRIES, "cpu", 100)
    monkeypatch.setitem(entries.CORNERS, "cpu", 3 * LATENTS)
    monkeypatch.setattr(entries, "VALUES", 7 * LATENTS)
    cut.update(pre_of(sae, maps), mask)
    for other in (cut, given):
        near = (whole.intersections - other.intersections).abs().sum()
        assert near <= 2  # sums of a product depend on its shape


@pytest.mark.parametrize("size", [(21, 17), (32, 40)])
def test_entries_and_whole_cells_are_two_ways_to_the_same_numbers(size):
    sae = made("jumprelu")
    maps, mask = pictures(3, size=size)
    thresholds = find_floors(sae.activate, LATENTS)[:, None] + torch.tensor([0.0, 0.1, 0.5])
    labels = mask.flatten()[None].clamp(max=5)
    tokens = pre_of(sae, maps)(slice(None)).permute(0, 2, 3, 1).flatten(0, 2).contiguous()
    groups = find_cells((5, 6), size, 3)
    by_entries, by_cells = torch.zeros(2, 1, 3, 6, LATENTS, dtype=torch.int64)
    entries = above_pixels(tokens, groups, thresholds[:, 0].contiguous())
    count_entries(entries, labels, thresholds, by_entries)
    count_cells(tokens, label_cells(groups, labels[0], 6), thresholds, by_cells[0])
    assert by_entries.any()
    assert torch.equal(by_entries, by_cells)


@pytest.mark.parametrize("name", ["relu", "topk"])
@pytest.mark.parametrize("size", [(21, 17), (5, 6), (64, 64)])
def test_other_masks_are_counted_beside(name, size):
    sae = made(name)
    maps, mask = pictures(3, size=size)
    other = mask[[1, 2, 0]]
    both, own, null = (metric_of(sae) for _ in range(3))
    both.update(pre_of(sae, maps), mask, other)
    own.update(pre_of(sae, maps), mask)
    null.update(pre_of(sae, maps), other)
    counts, alone, exchanged = (metric.compute() for metric in (both, own, null))
    assert torch.equal(counts.intersections, alone.intersections)
    assert torch.equal(counts.null.intersections, exchanged.intersections)
    assert torch.equal(counts.null.pixels, exchanged.pixels)
    assert not torch.equal(alone.intersections, exchanged.intersections)
    assert alone.null is None


@pytest.mark.parametrize("ranked", [None, 4])
def test_nothing_is_held_for_every_pixel_and_latent(ranked):
    maps, latents, side = torch.randn(1, 4, 4, 4), 1000, 256
    weight = torch.randn(latents, 4)

    def pre(part, rows=slice(None)):
        return torch.einsum("pchw,lc->plhw", maps[:, :, rows], weight[part])

    metric = Concepts(NAMES, torch.zeros(latents, 1), ranked=ranked)
    mask = torch.randint(5, (1, side, side))
    with torch.profiler.profile(profile_memory=True) as profile:
        metric.update(pre, mask)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest < side * side * latents / 3  # bytes: of as many booleans, a third


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_masks_of_any_integers(dtype):
    sae = made("relu")
    maps, mask = pictures()
    metric, wide = metric_of(sae), metric_of(sae)
    metric.update(pre_of(sae, maps), mask.to(dtype))
    wide.update(pre_of(sae, maps), mask)
    assert torch.equal(metric.intersections, wide.intersections)


def test_half_precision_pre_activations_and_autocast_count_the_same():
    sae = made("relu")
    maps, mask = pictures(size=(64, 64))
    pre = pre_of(sae, maps)(slice(None)).bfloat16()
    plain, cast = metric_of(sae), metric_of(sae).bfloat16()
    plain.update(pre.float(), mask)
    with torch.autocast("cpu", torch.bfloat16):
        cast.update(pre, mask)
    assert torch.equal(plain.intersections, cast.intersections)


@settings(max_examples=25)
@given(owner=st.lists(st.integers(0, 2), min_size=5, max_size=5), ranked=st.booleans())
def test_shards_add_up_to_the_whole(owner, ranked):
    maps, mask = pictures(5)
    sae = made("topk" if ranked else "relu")
    pre = pre_of(sae, maps)(slice(None))
    whole, *ranks = (metric_of(sae) for _ in range(4))
    whole.update(pre, mask)
    for i, rank in enumerate(owner):
        ranks[rank].update(pre[i : i + 1], mask[i : i + 1])
    seen = [metric for metric in ranks if metric.update_count]
    for other in seen[1:]:
        seen[0].merge_state(other)
    assert torch.equal(seen[0].compute().intersections, whole.compute().intersections)
    assert torch.equal(seen[0].compute().pixels, whole.compute().pixels)


def rank(number, folder):
    """One process: its own pictures; the counts of all."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2
    )
    maps, mask = pictures(3)
    own = slice(0, 2) if number == 0 else slice(2, 3)
    metric = metric_of(made("topk"))
    metric.update(pre_of(made("topk"), maps)(slice(None))[own], mask[own])
    answer = metric.compute().intersections.tolist()
    torch.distributed.destroy_process_group()
    return answer


@pytest.mark.faults
def test_two_processes_count_what_one_counts(tmp_path):
    answers = in_processes(*(partial(rank, i, tmp_path) for i in range(2)))
    maps, mask = pictures(3)
    metric = metric_of(made("topk"))
    metric.update(pre_of(made("topk"), maps)(slice(None)), mask)
    assert answers == [metric.compute().intersections.tolist()] * 2


# ---------------------------------------------------------------- figures


def counted(maps, mask, names=("a", "b"), **options):
    metric = Concepts(names, torch.zeros(maps.shape[1], 1), **options)
    metric.update(maps, mask)
    return metric.compute()


def test_figures_of_a_pair():
    maps = torch.tensor([[[[1.0, 1, 1, -1]], [[-1, -1, -1, -1]]]])
    mask = torch.tensor([[[0, 0, 1, 0]]])
    figures = counted(maps, mask).figures()
    assert figures.iou[0, 0] == 2 / 4
    assert figures.iwm[0, 0] == 2 / 3
    assert figures.precision[0, 0] == 2 / 3
    assert figures.iou_sum[0, 0] == 2 / 6
    assert all((figure[:, 1] == 0).all() for figure in figures)  # never active: nothing is nan


def test_an_absent_class_is_named_and_nan():
    maps, mask = pictures()
    sae = made("relu")
    metric = metric_of(sae)
    metric.update(pre_of(sae, maps), mask)
    counts = metric.compute()
    assert counts.absent == ["hat"]
    for figure in counts.figures():
        assert figure[3].isnan().all()
        assert figure[[0, 1, 2, 4]].isfinite().all()


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 50))
def test_figures_keep_their_bounds(inside, beyond, missed):
    both = torch.tensor([inside])
    figures = fit(both, both + beyond, both + missed)
    assert all(0 <= figure <= 1 for figure in figures)
    assert figures.iou <= min(figures.iwm, figures.precision) or inside == 0
    # the original's figure is a function of ours
    assert torch.allclose(figures.iou_sum, figures.iou / (1 + figures.iou))


def test_the_best_threshold_is_found():
    maps, mask = pictures()
    sae = made("relu")
    thresholds = torch.rand(LATENTS, 3).sort(1).values
    metric = metric_of(sae, thresholds)
    metric.update(pre_of(sae, maps), mask)
    counts = metric.compute()
    every = torch.stack([counts.figures(i).iou for i in range(3)])
    score, where = counts.best()
    assert torch.equal(score[[0, 1, 2, 4]], every.amax(0)[[0, 1, 2, 4]])
    assert torch.equal(every.gather(0, where[None])[0].nan_to_num(), score.nan_to_num())
    assert torch.equal(counts.best(threshold=1)[0].nan_to_num(), every[1].nan_to_num())


def test_no_live_latents():
    maps, mask = -torch.ones(2, 6, 4, 4), torch.zeros(2, 8, 8, dtype=torch.int64)
    for ranked in (None, 2):
        counts = counted(maps, mask, ranked=ranked)
        assert not counts.live.any()
        assert (counts.figures().iou[0] == 0).all()


# ---------------------------------------------------------------- what does not fit together


def test_a_user_is_told():
    maps, mask = pictures()
    sae = made("relu")
    pre = pre_of(sae, maps)(slice(None))
    with pytest.raises(UserError, match=r"labels \[9\].*nothing is ignored"):
        metric_of(sae, ignore_label=None).update(pre, mask)
    with pytest.raises(UserError, match=r"labels \[-3\].*9 is ignored"):
        metric_of(sae).update(pre, torch.where(mask == 0, -3, mask))
    with pytest.raises(UserError, match=r"labels \[5\]"):
        metric_of(sae).update(pre, torch.where(mask == 0, 5, mask))
    with pytest.raises(UserError, match="2 pictures have maps and 1"):
        metric_of(sae).update(pre_of(sae, maps), mask[:1])
    with pytest.raises(UserError, match="40 latents have thresholds, 39"):
        metric_of(sae).update(pre[:, :39], mask)
    metric = metric_of(sae)
    with pytest.raises(UserError, match="NaN"):
        metric.update(pre.where(pre < 1, torch.nan), mask)
    assert not metric.pixels.any()  # what was refused counts nowhere
    with pytest.raises(UserError, match="ascend"):
        Concepts(NAMES, torch.tensor([[1.0, 0.0]]))
    with pytest.raises(UserError, match="At least 1 latent"):
        Concepts(NAMES, torch.zeros(4, 1), ranked=0)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_counts_of_nothing_are_refused():
    with pytest.raises(UserError, match="No labelled pixel"):
        metric_of(made("relu")).compute()
