"""Exact ranks of sources among vectors, in chunks, against one query at a time.

python tests/benchmarks/exact_ranks.py [vectors, 10000] [width, 2048]
"""

import resource
import sys
import time

import torch

from diffdict.metrics.retrieval import ranks

GIVEN = dict(enumerate(map(int, sys.argv[1:])))
VECTORS, WIDTH = GIVEN.get(0, 10_000), GIVEN.get(1, 2_048)


def one_at_a_time(vectors: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """A pass over all vectors for every query; query i's source is vector i."""
    found = []
    for source, query in enumerate(queries):
        distances = (vectors - query).square().sum(1)
        found.append(1 + (distances < distances[source]).sum())
    return torch.stack(found)


def peak() -> float:
    """The most memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(VECTORS, WIDTH, generator=generator)
    queries = vectors + 0.7 * torch.randn(VECTORS, WIDTH, generator=generator)
    before, began = peak(), time.perf_counter()
    ours = ranks(vectors, queries, torch.arange(VECTORS))
    chunked, memory = time.perf_counter() - began, peak() - before
    part = slice(0, max(1, VECTORS // 20))  # the plain way is as long for every query
    began = time.perf_counter()
    plain = one_at_a_time(vectors, queries[part])
    single = (time.perf_counter() - began) * VECTORS / len(plain)
    assert torch.equal(ours[part], plain)
    print(f"{VECTORS} ranks among {VECTORS} vectors of {WIDTH}: {chunked:.1f} s, {memory:.0f} MB")
    print(f"one query at a time: {single:.1f} s, {single / chunked:.2f} × as long")


if __name__ == "__main__":
    main()
