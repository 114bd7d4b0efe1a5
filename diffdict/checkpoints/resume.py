"""Whether a checkpoint is a whole run that this module can go on from, and going on from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from torch import nn

from diffdict.checkpoints.read import LIGHTNING, read
from diffdict.errors import UserError, command, override


@runtime_checkable
class ChecksCheckpoint(Protocol):
    """A module that has more to say of a checkpoint than shapes do."""

    def check_checkpoint(self, path: Path, content: Mapping) -> None:
        """Nothing, or a sentence about why this module cannot go on from it."""


def check_resumable(checkpoint: str | Path, module: nn.Module) -> Path:
    """The path of a run's checkpoint whose state fits the module; otherwise the reason why not."""
    path = Path(checkpoint)
    if not path.is_file():
        raise UserError(
            f"ckpt_path={path} is no file. Runs keep theirs as outputs/DATE/TIME/last.ckpt"
        )
    content, _ = read(path)
    state = content.get("state_dict")
    if LIGHTNING not in content or not isinstance(state, Mapping):
        raise UserError(
            f"ckpt_path={path} holds weights, not a run that could go on: "
            f"to start from them say {command(override('backbone.checkpoint', str(path)))}"
        )
    if isinstance(module, ChecksCheckpoint):
        module.check_checkpoint(path, content)
    ours = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    theirs = {key: tuple(value.shape) for key, value in state.items()}
    for key in [*ours, *theirs]:
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"ckpt_path={path} is a run of another network or task: its {key} is "
                f"{theirs.get(key, 'missing')}, here {ours.get(key, 'missing')}. Resume with the "
                "task=, backbone= and flags that it was started with"
            )
    return path


class KeptRun(NamedTuple):
    """How a run's checkpoint was learned, and how far."""

    config: dict
    epoch: int
    step: int  # of the optimizer


def kept_run(checkpoint: str | Path) -> KeptRun:
    """What a resumed training goes on from."""
    content, _ = read(Path(checkpoint))
    return KeptRun(content.get("config") or {}, content["epoch"], content["global_step"])


def restore(checkpoint: str | Path, module: nn.Module) -> nn.Module:
    """The module as the run left it."""
    content, _ = read(check_resumable(checkpoint, module))
    module.load_state_dict(content["state_dict"])
    return module


def facts_of(checkpoint: str | Path) -> dict:
    """What the data told the module that a run of ours learned."""
    content, _ = read(Path(checkpoint))
    if "facts" not in content:
        raise UserError(
            f"{checkpoint} does not say what its module was made for: it was written by an older "
            f"version, train it again (the run's dictionary/ opens with Dictionary.load)"
        )
    return content["facts"]
