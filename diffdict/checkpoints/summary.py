"""What is in a checkpoint, for a person to read."""

from pathlib import Path
from typing import NamedTuple

from diffdict.checkpoints.flags import Flag, anatomy
from diffdict.checkpoints.names import resolve
from diffdict.checkpoints.read import find_layout, read, unwrapped, weights_at
from diffdict.errors import UserError
from diffdict.files import sha256


class Description(NamedTuple):
    """A checkpoint in a few lines."""

    path: Path
    size: int  # bytes
    sha256: str  # of the file as it is now
    layout: str  # how its weights are opened
    kind: str | None  # the architecture, when it is one that we know
    tensors: int
    parameters: int  # numbers in them
    dtypes: dict[str, int]  # dtype → tensors
    flags: dict[str, Flag]  # of the architecture, read off the shapes
    facts: dict  # what the file says of itself: epoch, step, task, arguments


def describe(checkpoint: str | Path, folder: str | Path | None = None) -> Description:
    """What this checkpoint holds; a whole run of any task is described too."""
    path = resolve(checkpoint, folder)
    content, facts = read(path)
    layout = find_layout(content, path)
    try:
        state = unwrapped(weights_at(content, layout, path))
    except UserError:  # a run whose module is no backbone (a dictionary, a classifier)
        layout = "state_dict"
        state = unwrapped(weights_at(content, layout, path))
    kind, flags = anatomy({key: tuple(value.shape) for key, value in state.items()})
    dtypes = [str(value.dtype).removeprefix("torch.") for value in state.values()]
    return Description(
        path=path,
        size=path.stat().st_size,
        sha256=sha256(path),
        layout=layout,
        kind=kind,
        tensors=len(state),
        parameters=sum(value.numel() for value in state.values()),
        dtypes={name: dtypes.count(name) for name in sorted(set(dtypes))},
        flags=flags,
        facts=facts,
    )
