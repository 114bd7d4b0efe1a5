"""The parts of a code that tables are made of: the whole, each part alone, and every prefix."""

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch

from diffdict.backbones.autoencoders.code_backbone import CodeBackbone
from diffdict.backbones.base import Backbone
from diffdict.diffusion.segments import CodeSegments

CODE = "code"  # the block that holds all of it
WHOLE, STAGE, SEGMENT, PREFIX = "whole", "stage", "segment", "prefix"


class CodePart(NamedTuple):
    """Some consecutive entries of a code."""

    name: str
    kind: str  # whole, stage, segment, prefix
    begin: int
    end: int
    first: int | None = None  # the timesteps that open it, or see a prefix; None: all of them
    last: int | None = None


def code_parts(net: Backbone) -> list[CodePart]:
    """Of an encoder whose code has parts; of any other network none."""
    if not isinstance(net, CodeBackbone) or net.segments is None:
        return []
    segments, ends = net.segments, net.segments.ends.tolist()
    times = _times(segments)
    whole = [CodePart(CODE, WHOLE, 0, segments.code)]
    alone = [
        CodePart(f"{SEGMENT}{i}", SEGMENT, begin, end, *times[i])
        for i, (begin, end) in enumerate(pairwise([0, *ends]))
    ]
    prefixes = [CodePart(f"{PREFIX}{i}", PREFIX, 0, end, *times[i]) for i, end in enumerate(ends)]
    every = [*whole, *_stages(segments, ends, times), *alone, *prefixes]
    return [part for part in every if part.end > part.begin]


def _times(segments: CodeSegments) -> list[tuple[int, int]]:
    """The first and the last timestep of each segment."""
    of = segments.of(torch.arange(segments.steps)).tolist()
    return [(of.index(i), len(of) - 1 - of[::-1].index(i)) for i in range(segments.total)]


def _stages(
    segments: CodeSegments, ends: list[int], times: list[tuple[int, int]]
) -> Iterator[CodePart]:
    """Each stage with the entries and timesteps of its segments."""
    if segments.stages is None:
        return
    for i, (begin, end) in enumerate(pairwise([0, *accumulate(segments.per_stage)])):
        entries = (ends[begin - 1] if begin else 0), ends[end - 1]
        yield CodePart(f"{STAGE}{i}", STAGE, *entries, times[begin][0], times[end - 1][1])
