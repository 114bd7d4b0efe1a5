"""What a network takes of a machine's memory: said, and refused where it cannot fit."""

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffdict.backbones.hub.families.family import Family, Setting
from diffdict.backbones.hub.prompt import Prompt
from diffdict.errors import UserError
from diffdict.files import human_bytes

MEMORY = Path("/proc/meminfo")  # where Linux says what is free


def require_memory(family: Family, folder: Path, dtype: torch.dtype) -> None:
    """Nothing, or that the weights alone are more than this machine has free."""
    with torch.device("meta"):
        parameters = sum(each.numel() for each in family.made().parameters())
    needed, free = parameters * dtype.itemsize, free_memory()
    if free is None or needed <= free:
        return
    half = "" if dtype.itemsize == 2 else "backbone.dtype=bf16 takes half of it; else "
    raise UserError(
        f"{folder} has {parameters:,} parameters, {human_bytes(needed)} in {str(dtype)[6:]}, and "
        f"{human_bytes(free)} of memory are free: {half}choose a smaller network or another machine"
    )


class TensorMemory(TorchDispatchMode):
    """Bytes of the tensors that are made within, and `peak`, the most that are there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.held, self.peak = 0, 0
        self.storages: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        """Counts what an operation makes, and no view of what it is given."""
        outputs = func(*args, **(kwargs or {}))
        given = {id(storage) for storage in _storages((args, kwargs))}
        for storage in _storages(outputs):
            if id(storage) not in given:
                self._count(storage)
        return outputs

    def _count(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self.storages:
            return
        self.storages.add(id(storage))
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._drop, id(storage), storage.nbytes())

    def _drop(self, storage: int, size: int) -> None:
        self.storages.discard(storage)
        self.held -= size


class FusedAttention(TorchFunctionMode):
    """Attention without a table, as kernels of devices compute it; of its answer only the shape."""

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        """All else as ever."""
        if func is F.scaled_dot_product_attention:
            query, _, value = _queries(*args, **(kwargs or {}))
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


def _queries(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> tuple:
    return query, key, value


def _storages(tensors: object) -> list[torch.UntypedStorage]:
    return [x.untyped_storage() for x in tree_leaves(tensors) if isinstance(x, Tensor)]


@torch.no_grad()
def pass_bytes(family: Family, tokens: int) -> int | None:
    """What a pass over one picture takes beside the weights, in fp32; None: of no certain size.

    Its tensors are counted and none is computed; attention is fused, and keeps no table of queries
    by keys. The text has so many tokens.
    """
    side = family.native_size
    if not isinstance(side, int):
        return None
    with torch.device("meta"):
        network = family.made().eval()
        x = torch.empty(1, family.channels, side, side)
        pooled = None if family.pooled is None else torch.empty(1, family.pooled)
        states = torch.empty(1, tokens, family.text or 1)
        prompt = Prompt(states, pooled, torch.ones(1, tokens))
        label = torch.zeros(1, dtype=torch.int64)
        arguments = family.arguments(x, label, Setting(prompt, label, side))
        with TensorMemory() as memory, FusedAttention():
            network(**arguments, return_dict=False)
    return memory.peak


def free_memory() -> int | None:
    """Bytes that a process here may still take; None where the system does not say."""
    if MEMORY.is_file():
        for line in MEMORY.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    names = ("SC_AVPHYS_PAGES", "SC_PAGE_SIZE")
    if not all(name in os.sysconf_names for name in names):
        return None
    pages, size = (os.sysconf(name) for name in names)
    return pages * size


@contextmanager
def plain_memory_errors(name: str, dtype: torch.dtype, batch: int) -> Iterator[None]:
    """A device that is full, in one line that says what would make it less."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{name} in {dtype} with {batch} pictures a batch does not fit the device: a smaller "
            "data.batch_size, backbone.dtype=bf16, or backbone.offload=whole|layers"
        ) from error
