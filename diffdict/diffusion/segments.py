"""The parts of a code that opens with the noise: which entries each timestep sees (DiTi)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import index

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from diffdict.errors import UserError

MODES = ("base", "stop_grad", "dual")  # of what learns from a timestep's loss


@dataclass(frozen=True)
class CodeSegments:
    """A code of `code` entries in consecutive parts, one more opened by each run of timesteps.

    Without stages all parts are as long as each other, in timesteps and in entries. `stages` are
    timesteps, each the end of one stage, and `dims` the entries that each stage adds. `number`
    then is shared out over the whole chain, or given for each stage as a list. The published
    configs have lists as "100,1000".
    """

    code: int = 512
    number: int | str | Sequence[int] = 64
    stages: str | Sequence[int] | None = None
    dims: str | Sequence[int] | None = None
    steps: int = 1000

    def __post_init__(self) -> None:
        for name in ("number", "stages", "dims"):  # configs bring lists, which are not hashable
            value = getattr(self, name)
            if value is not None and not (name == "number" and isinstance(value, int)):
                object.__setattr__(self, name, _whole_numbers(name, value))
        self._check_sizes()
        self._check_stages()
        lengths = [end - begin for begin, end in self._spans]
        if any(not 1 <= n <= most for n, most in zip(self.per_stage, lengths, strict=True)):
            raise UserError(
                f"Every stage has one segment or more, none shorter than a timestep, got stages="
                f"{list(self._stages)} with {list(self.per_stage)} segments: give longer stages"
            )

    def _check_sizes(self) -> None:
        """The lengths that no code and no chain can have."""
        most = min(self.code, self.steps)
        if not 1 <= self.total <= most:
            raise UserError(
                f"number of segments lies in 1..{most}, as many as there are entries of the code "
                f"({self.code}) and timesteps ({self.steps}) at most, got {self.number}"
            )

    def _check_stages(self) -> None:
        """Stages that do not fit the chain, their dims, or each other."""
        if (self.stages is None) != (self.dims is None):
            given, missing = ("dims", "stages") if self.stages is None else ("stages", "dims")
            raise UserError(f"{given} come with {missing}, got {given} alone: give both or none")
        if self.stages is None:
            if not isinstance(self.number, int):
                raise UserError(
                    f"number is a list of one count a stage only with stages, got "
                    f"{list(self.number)}: give stages and dims, or number={self.total}"
                )
            return
        rising = all(a < b for a, b in pairwise((0, *self.stages)))
        if not rising or self.stages[-1:] != (self.steps,):
            raise UserError(
                f"stages rise from above 0 and end at the chain's length, got "
                f"{list(self.stages)}: let the last one be {self.steps}"
            )
        if len(self.dims) != len(self.stages) or sum(self.dims) != self.code or min(self.dims) < 0:
            raise UserError(
                f"dims are one number a stage that add up to the code's {self.code}, got "
                f"{list(self.dims)} for {len(self.stages)} stages, together {sum(self.dims)}"
            )
        if not isinstance(self.number, int) and len(self.number) != len(self.stages):
            raise UserError(
                f"number as a list is one count a stage, got {list(self.number)} for "
                f"{len(self.stages)} stages"
            )

    @property
    def total(self) -> int:
        """How many segments there are."""
        return self.number if isinstance(self.number, int) else sum(self.number)

    @property
    def per_stage(self) -> tuple[int, ...]:
        """How many segments begin in each stage."""
        if not isinstance(self.number, int):
            return self.number
        firsts = [-(-segment * self.steps // self.number) for segment in range(self.number)]
        return tuple(sum(begin <= first < end for first in firsts) for begin, end in self._spans)

    @property
    def _stages(self) -> tuple[int, ...]:
        """The timestep at which each stage ends; without stages the whole chain is one."""
        return (self.steps,) if self.stages is None else self.stages

    @property
    def _spans(self) -> list[tuple[int, int]]:
        """Where each stage begins, and the timestep after its last."""
        return list(pairwise((0, *self._stages)))

    @property
    def ends(self) -> Int64[Tensor, " segments"]:
        """How many entries of the code are open in each segment."""
        if self.dims is None:
            return torch.arange(1, self.total + 1) * self.code // self.total
        added: list[int] = []
        for dims, count in zip(self.dims, self.per_stage, strict=True):
            added += [dims // count] * (count - 1)
            added.append(dims - dims // count * (count - 1))  # the last one takes the rest
        return torch.tensor(list(accumulate(added)))

    def of(self, t: Int[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
        """The segment of each timestep."""
        return self._table.to(t.device)[t]

    @property
    def _table(self) -> Int64[Tensor, " steps"]:
        """The segment of every timestep of the chain."""
        if isinstance(self.number, int):
            return torch.arange(self.steps) * self.number // self.steps
        segments, before = [], 0
        for (begin, end), count in zip(self._spans, self.number, strict=True):
            segments.append(before + torch.arange(end - begin) * count // (end - begin))
            before += count
        return torch.cat(segments)

    def prefix(self, t: Int[Tensor, " batch"]) -> Bool[Tensor, "batch code"]:
        """The entries that are open at each timestep: those of its segment and all before."""
        ends = self.ends.to(t.device)[self.of(t)]
        return torch.arange(self.code, device=t.device) < ends[:, None]

    def own(self, t: Int[Tensor, " batch"]) -> Bool[Tensor, "batch code"]:
        """The entries that each timestep's segment adds to those before."""
        begins = torch.cat([torch.zeros(1, dtype=torch.int64), self.ends[:-1]])
        begins = begins.to(t.device)[self.of(t)]
        return self.prefix(t) & (torch.arange(self.code, device=t.device) >= begins[:, None])

    def opened(
        self, codes: Float[Tensor, "batch code"], t: Int[Tensor, " batch"], mode: str = "base"
    ) -> Float[Tensor, "batch code"]:
        """The codes as they are told at each timestep; a mode only says which entries learn there.

        base: all that are open. stop_grad: those that this segment adds. dual: the former by half,
        so that twice the loss has the gradients of both modes together, from one pass.
        """
        if mode not in MODES:
            raise UserError(f"mode is one of {', '.join(MODES)}, got {mode!r}")
        fixed = {"base": codes, "stop_grad": codes.detach(), "dual": (codes + codes.detach()) / 2}
        segment = self.own(t)
        return codes * segment + fixed[mode] * (self.prefix(t) & ~segment)


def _whole_numbers(name: str, value: str | Sequence[int]) -> tuple[int, ...]:
    """A list's numbers, or those of a comma string."""
    try:
        if isinstance(value, str):
            return tuple(map(int, value.split(",")))
        return tuple(map(index, value))
    except (TypeError, ValueError):
        raise UserError(
            f"{name} of segments is whole numbers, got {value!r}: [100,1000] or the like"
        ) from None


Segments = CodeSegments  # the word of DiTi's paper and code
