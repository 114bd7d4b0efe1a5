"""What a network takes of a machine's memory: said, and refused where it cannot fit."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from diffdict.backbones.hub.families.family import Family
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
            "data.batch_size, or backbone.dtype=bf16"
        ) from error
