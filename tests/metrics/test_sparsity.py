"""Figures of a dictionary: against another library, in any split, on two ranks; coherence."""

from functools import partial

import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from diffdict.errors import UserError
from diffdict.metrics.sparsity import Sparsity, coherence, density_histogram
from tests.processes import in_processes

TOKENS, D, LATENTS = 90, 6, 20


def made(offset=3.0, seed=0):
    """Off-centre tokens, a poor reconstruction, and dense codes of which latents 15.. are dead."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(TOKENS, D, generator=generator) * torch.arange(1, D + 1) + offset
    reconstruction = x + torch.randn(TOKENS, D, generator=generator)
    codes = torch.randn(TOKENS, LATENTS, generator=generator) - 0.5
    codes[:, 15:] = -1
    return x, reconstruction, codes


def entries(codes):
    """Latents and values of the entries kept, some of them not active."""
    _, latents = (codes > -0.5).nonzero(as_tuple=True)
    return latents, codes[codes > -0.5]


def seen(x, reconstruction, codes, metric=None):
    metric = metric or Sparsity(D, LATENTS)
    metric.update(x, reconstruction, *entries(codes))
    return metric


def agree(ours, theirs, rtol=1e-11):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=0, equal_nan=True)


@pytest.mark.parametrize("offset", [0.0, 3.0, 1000.0])
@pytest.mark.parametrize("centred", [False, True])
def test_fvu_is_what_the_r2_of_another_library_leaves(offset, centred):
    x, reconstruction, codes = made(offset)
    r2 = torchmetrics.R2Score(multioutput="variance_weighted").set_dtype(torch.float64)
    r2.update(reconstruction.double(), x.double())
    metric = Sparsity(D, LATENTS, x.mean(0) if centred else None)
    fvu = seen(x, reconstruction, codes, metric).compute().fvu
    assert fvu.item() == pytest.approx(1 - r2.compute().item(), rel=1e-9)


def test_fvu_is_the_unexplained_variance_where_the_error_has_no_mean():
    x, reconstruction, codes = made()
    reconstruction -= (reconstruction - x).mean(0)
    explained = torchmetrics.ExplainedVariance(multioutput="variance_weighted")
    explained.update(reconstruction, x)
    fvu = seen(x, reconstruction, codes).compute().fvu
    assert fvu.item() == pytest.approx(1 - explained.compute().item(), rel=1e-5)


def test_the_mean_explains_nothing_and_the_token_all():
    x, _, codes = made()
    assert seen(x, x, codes).compute().fvu == 0
    mean = x.double().mean(0).expand(TOKENS, D)
    assert seen(x.double(), mean, codes).compute().fvu.item() == pytest.approx(1, rel=1e-12)


def test_off_centre_tokens_lose_no_digits():
    x, reconstruction, codes = (a.double() for a in made(0.0))
    plain = seen(x, reconstruction, codes).compute().fvu
    far = seen(x + 1e5, reconstruction + 1e5, codes).compute().fvu
    held = Sparsity(D, LATENTS, torch.full((D,), 1e5))
    near = seen(x + 1e5, reconstruction + 1e5, codes, held).compute().fvu
    assert far.item() == pytest.approx(plain.item(), rel=1e-5)
    assert near.item() == pytest.approx(plain.item(), rel=1e-9)


def test_cosine_is_that_of_centred_vectors():
    x, reconstruction, codes = made(1000.0)
    mean = x.mean(0)
    got = seen(x, reconstruction, codes, Sparsity(D, LATENTS, mean)).compute().cosine
    expected = F.cosine_similarity(x - mean, reconstruction - mean).mean()
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    assert got < 0.99 < seen(x, reconstruction, codes).compute().cosine


def test_active_entries_are_counted_and_others_are_not():
    x, reconstruction, codes = made()
    figures = seen(x, reconstruction, codes).compute()
    assert figures.l0.item() == pytest.approx((codes > 0).double().sum(1).mean().item())
    torch.testing.assert_close(figures.density, (codes > 0).double().mean(0))
    assert figures.dead == 5 / LATENTS


def test_a_latent_is_dead_until_it_was_active_once():
    x = torch.randn(4, D)
    metric = Sparsity(D, LATENTS)
    shares = []
    for latent in (3, 3, 7):
        metric.update(x, x, torch.tensor([latent, 9]), torch.tensor([0.1, 0.0]))
        shares.append(metric.compute().dead.item())
    assert shares == [19 / 20, 19 / 20, 18 / 20]
    metric.reset()
    metric.update(x, x, torch.tensor([], dtype=torch.int64), torch.tensor([]))
    figures = metric.compute()
    assert (figures.dead, figures.l0) == (1, 0)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # of a rank that saw nothing
@given(
    cuts=st.lists(st.integers(1, TOKENS - 1), max_size=4, unique=True),
    order=st.permutations(range(5)),
    owner=st.integers(0, 31),
)
def test_neither_batches_nor_their_order_nor_ranks_matter(cuts, order, owner):
    parts = [a.tensor_split(sorted(cuts)) for a in made()]
    batches = [*zip(*parts, strict=True)]
    ranks = Sparsity(D, LATENTS), Sparsity(D, LATENTS)
    for i in order:
        if i < len(batches):
            seen(*batches[i], metric=ranks[owner >> i & 1])
    ranks[0].merge_state(ranks[1])
    agree(ranks[0].compute(), seen(*made()).compute())


def rank(number, folder):
    """One process: its own half of the tokens, unequal ones; the figures of all."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2
    )
    cut = slice(None, 60) if number == 0 else slice(60, None)
    figures = seen(*(a[cut] for a in made())).compute()
    answer = [a.numpy() for a in figures[:-1]]
    torch.distributed.destroy_process_group()
    return answer


@pytest.mark.faults
def test_two_processes_say_what_one_says(tmp_path):
    answers = in_processes(*(partial(rank, i, tmp_path) for i in range(2)))
    for answer in answers:
        agree([torch.from_numpy(np.asarray(a)) for a in answer], seen(*made()).compute()[:-1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tokens_are_summed_in_float64(dtype):
    x, reconstruction, codes = made()
    half = x.to(dtype), reconstruction.to(dtype), codes.to(dtype)
    agree(seen(*half).compute(), seen(*(a.double() for a in half)).compute())


def test_a_half_precision_module_keeps_the_sums_in_float64():
    holder = torch.nn.ModuleDict({"figures": Sparsity(D, LATENTS, torch.full((D,), 1 / 3))})
    for convert in (lambda: holder.to(torch.bfloat16), holder.half, holder.bfloat16, holder.float):
        convert()
        metric = holder["figures"]
        dtypes = {getattr(metric, name).dtype for name in ("first", "second", "cosine", "mean")}
        assert dtypes == {torch.float64}
    assert metric.mean[0] == torch.tensor(1 / 3)
    metric.reset()
    ours = seen(*made(), metric=metric).compute()
    third = Sparsity(D, LATENTS, torch.full((D,), 1 / 3))
    agree(ours, seen(*made(), metric=third).compute(), rtol=0)
    assert not holder.state_dict()


@pytest.mark.parametrize("value", [0.0, 0.1, -1e4])
def test_tokens_without_variance_have_no_fvu(value):
    x = torch.full((TOKENS, D), value)
    metric = Sparsity(D, LATENTS)
    for _ in range(7):
        seen(x, x + 1, made()[2], metric)
    figures = metric.compute()
    assert figures.fvu.isnan()
    assert all(figure.isfinite().all() for figure in figures[1:-1])


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_figures_of_nothing_are_refused():
    with pytest.raises(UserError, match=r"No tokens were seen.*data\.val_pictures"):
        Sparsity(D, LATENTS).compute()


# ---------------------------------------------------------------- the histogram of densities


def test_the_histogram_of_densities():
    density = torch.tensor([0, 1e-12, 1e-8, 1e-7, 0.001, 0.01, 0.1, 0.11, 0.5, 1.0])
    edges, counts = density_histogram(density)
    assert len(edges) == len(counts) + 1 == 33
    assert (edges[0], edges[-1]) == (-8, 0)
    expected = torch.zeros(32, dtype=torch.int64)
    for log in (-8, -8, -8, -7, -3, -2, -1, -1, -0.5, -0.25):  # lower edges
        expected[int((log + 8) * 4)] += 1
    assert counts.tolist() == expected.tolist()


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30))
def test_the_histogram_is_the_same_in_both_precisions(fired):
    density = torch.tensor(fired, dtype=torch.float64) / 10**6
    ours, theirs = density_histogram(density), density_histogram(density.float())
    assert torch.equal(ours.edges, theirs.edges)
    assert torch.equal(ours.counts, theirs.counts)
    assert ours.counts.sum() == len(fired)


# ---------------------------------------------------------------- how alike the rows are


@pytest.mark.parametrize("chunk", [1, 7, 40, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coherence_is_the_nearest_other_row(chunk, dtype):
    rows = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    unit = F.normalize(rows.double())
    nearest = (unit @ unit.T).abs().fill_diagonal_(0).amax(1)
    with torch.autocast("cpu", torch.bfloat16):
        got = coherence(rows, chunk)
    assert got.mean_max == pytest.approx(nearest.mean().item(), rel=1e-6)
    assert got.max == pytest.approx(nearest.max().item(), rel=1e-6)


def test_coherence_at_its_ends():
    assert coherence(torch.eye(5)) == (0, 0)
    assert coherence(torch.randn(1, 5)) == (0, 0)
    rows = torch.randn(3, 5)
    assert coherence(torch.cat([rows, -2 * rows])) == pytest.approx((1, 1), rel=1e-6)
    assert coherence(torch.cat([rows, 2 * rows])).max <= 1
    assert coherence(torch.zeros(2, 5)) == (0, 0)


def test_coherence_holds_no_square_of_the_latents():
    with torch.profiler.profile(profile_memory=True) as profile:
        coherence(torch.randn(4096, 4), chunk=64)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest <= 64 * 4096 * 4
