"""Shows the map attribute × part of a code in closed form against a trained probe of each cell.

Codes of 512 entries in the 134 published parts, 40 binary attributes, all drawn; the trained probes
as published, 15 epochs of Adam at 1e-3 in batches of 128, of some cells, their time scaled to all;
then heads that learn all attributes of a part at once. Prefixes from one factor against separate
solves, and memory. One thread, processor time.
"""

import resource
import sys
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffdict.backbones.code_encoder import CodeEncoder
from diffdict.classifiers.attributes.attribute_probes import (
    CHOOSE,
    FIT,
    TEST,
    AttributeProbes,
)
from diffdict.data.attributes import Attribute
from diffdict.diffusion.segments import CodeSegments
from diffdict.features.codes.code_parts import PREFIX, CodePart, code_parts
from diffdict.features.store.shards import Stream
from diffdict.metrics.accuracy import average_precision
from diffdict.metrics.attributes import RIDGES
from diffdict.metrics.attributes.rank_correlation import spearman

CODE, ATTRIBUTES, BATCH, EPOCHS, RATE = 512, 40, 128, 15, 1e-3
SEGMENTS = CodeSegments(CODE, 64, (50, 100, 300, 500, 1000), (10, 25, 327, 100, 50))
SPLITS = {FIT: (0.0, 0.5), CHOOSE: (0.5, 0.65), TEST: (0.65, 1.0)}  # shares of the pictures
GOALS = {"map": 50, "spearman": 0.95, "prefixes": 3, "memory": 1024}


def draw(pictures: int) -> tuple[Tensor, Tensor]:
    """Codes whose entries are alike, and attributes that hang on eight of them each."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.eye(CODE) + torch.randn(CODE, CODE, generator=generator) / 40
    codes = torch.randn(pictures, CODE, generator=generator) @ mixed
    weight = torch.zeros(CODE, ATTRIBUTES)
    for attribute in range(ATTRIBUTES):
        weight[torch.randperm(CODE, generator=generator)[:8], attribute] = 1
    noise = 2 * torch.randn(pictures, ATTRIBUTES, generator=generator)
    return codes, (codes @ weight + noise > 1).double()


def split(rows: Tensor, purpose: int) -> Tensor:
    """The pictures for this purpose."""
    begin, end = (round(share * len(rows)) for share in SPLITS[purpose])
    return rows[begin:end]


def closed_form(codes: Tensor, truth: Tensor, parts: list[CodePart]) -> dict[str, Tensor]:
    """Average precision of each attribute at every part, from one pass."""
    kinds = [Attribute(f"a{i}", "binary") for i in range(ATTRIBUTES)]
    stream = Stream(CODE, 1, 1, "fp32", None, "code")
    probes = AttributeProbes([stream], kinds, parts, RIDGES)
    for purpose in SPLITS:
        rows, known = split(codes, purpose), split(truth, purpose)
        for at in range(0, len(rows), BATCH):
            probes.update(purpose, [rows[at : at + BATCH]], known[at : at + BATCH])
    return {found.place.part.name: found.figures for found in probes.compute()[0]}


def trained(codes: Tensor, truth: Tensor, part: CodePart) -> Tensor:
    """The same of a head of these attributes on this part alone."""
    torch.manual_seed(0)
    own, known = codes[:, part.begin : part.end], truth.float()
    head = nn.Linear(own.shape[1], known.shape[1])
    optimizer = torch.optim.Adam(head.parameters(), lr=RATE)
    rows, wanted = (torch.cat([split(x, use) for use in (FIT, CHOOSE)]) for x in (own, known))
    for _ in range(EPOCHS):
        for at in range(0, len(rows), BATCH):
            scores = head(rows[at : at + BATCH])
            loss = F.binary_cross_entropy_with_logits(scores, wanted[at : at + BATCH])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        scores = head(split(own, TEST))
    return average_precision(scores[:, None], split(truth, TEST) > 0.5)[0]


def prefix_ratio(codes: Tensor, truth: Tensor) -> tuple[float, float]:
    """By what factor one Cholesky factor is faster than a solve a prefix; how far they differ."""
    stream = Stream(CODE, 1, 1, "fp32", None, "code")
    probes = AttributeProbes([stream], [Attribute(f"a{i}", "binary") for i in range(ATTRIBUTES)])
    probes.update(FIT, [split(codes, FIT)], split(truth, FIT))
    (group,) = probes.sums[0].groups()
    rows, ends = group.standardized(split(codes, TEST)[:500]), SEGMENTS.ends.tolist()
    began = time.process_time()
    together = list(group.prefix_scores(rows, RIDGES[2], ends))
    between = time.process_time()
    apart = [group.scores(rows, RIDGES[2], slice(0, end)) for end in ends]
    ratio = (time.process_time() - between) / (between - began)
    pairs = zip(together, apart, strict=True)
    return ratio, max(float((a - b).abs().max()) for a, b in pairs)


def main(pictures: int = 20_000, probes: int = 12) -> None:
    torch.set_num_threads(1)
    parts = code_parts(CodeEncoder(64, CODE, segments=SEGMENTS))
    codes, truth = draw(pictures)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = closed_form(codes, truth, parts)
    ours = time.process_time() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    measured = parts[:: max(1, len(parts) // probes)]
    began = time.process_time()
    for part in measured:
        trained(codes, truth[:, :1], part)
    between = time.process_time()
    theirs = [trained(codes, truth, part) for part in measured]
    shared = (time.process_time() - between) * len(parts) / len(measured)
    alone = (between - began) * ATTRIBUTES * len(parts) / len(measured)
    cells = torch.stack([found[part.name] for part in measured]).flatten().tolist()
    alike = spearman(cells, torch.stack(theirs).flatten().tolist())
    print(f"a trained probe a cell / closed form: {alone / ours:.0f} (goal {GOALS['map']})")
    print(f"a trained head of all attributes a part / closed form: {shared / ours:.1f}")
    print(f"Spearman over {len(cells)} cells: {alike:.3f} (goal {GOALS['spearman']})", flush=True)
    print(f"memory: {grown:.0f} MiB more than the codes (goal {GOALS['memory']})")
    ratio, apart = prefix_ratio(codes, truth)
    many = sum(part.kind == PREFIX for part in parts)
    print(f"{many} separate solves / one factor: {ratio:.1f} (goal {GOALS['prefixes']})")
    print(f"their answers differ by {apart:.1e} at most")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
