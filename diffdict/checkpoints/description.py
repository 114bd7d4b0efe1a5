"""What is in a checkpoint, for a person to read."""

import zipfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from diffdict.checkpoints.architecture import PDAE_FACTS, Flag, infer_architecture
from diffdict.checkpoints.read import find_layout, read, unwrapped, weights_at
from diffdict.checkpoints.released import recheck, resolve
from diffdict.errors import UserError
from diffdict.files import human_bytes, sha256

LONG = 200  # characters of one fact on the screen


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


def inspect(checkpoint: str | Path, folder: str | Path | None = None) -> Description:
    """What this checkpoint holds; a whole run of any task is understood too."""
    path = resolve(checkpoint, folder)
    content, facts = read(path)
    layout = find_layout(content, path)
    if layout == "lightning" and not any(key.startswith("net.") for key in content["state_dict"]):
        layout = "state_dict"  # a run whose module is no backbone: a dictionary, a classifier
    state = unwrapped(weights_at(content, layout, path))
    kind, flags = infer_architecture({key: tuple(value.shape) for key, value in state.items()})
    dtypes = Counter(str(value.dtype).removeprefix("torch.") for value in state.values())
    return Description(
        path=path,
        size=path.stat().st_size,
        sha256=sha256(path),
        layout=layout,
        kind=kind,
        tensors=len(state),
        parameters=sum(value.numel() for value in state.values()),
        dtypes=dict(dtypes),
        flags=flags,
        facts=facts,
    )


def describe(checkpoint: str | Path, folder: str | Path | None = None) -> str:
    """The checkpoint in one screen of text."""
    inspection = inspect(checkpoint, folder)
    facts = dict(inspection.facts)
    if isinstance(codes := facts.get(PDAE_FACTS), dict):  # its U-Net's flags stand above
        del facts[PDAE_FACTS]
        facts |= {key: value for key, value in codes.items() if key != "denoiser"}
    lines = {
        "file": f"{inspection.path} ({human_bytes(inspection.size)})",
        "sha256": inspection.sha256,
        "opened as": inspection.layout,
        "network": inspection.kind or "of a kind not known by its names",
        "weights": f"{inspection.parameters:,} numbers in {inspection.tensors} tensors",
        "dtypes": ", ".join(f"{dtype} × {count}" for dtype, count in inspection.dtypes.items()),
        **{flag: str(value) for flag, value in inspection.flags.items()},
        **{key: _brief(value) for key, value in facts.items()},
    }
    if isinstance(config := facts.get("config"), dict):
        lines["config"] = str(config.get("model", {}).get("_target_", "kept"))
    return "\n".join(f"{name:<22}{value}" for name, value in lines.items())


def _brief(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= LONG else f"{text[:LONG]}…"


def verify(checkpoint: str | Path, folder: str | Path | None = None) -> str:
    """Every bit of the checkpoint: its record, its own checksums, every weight a number."""
    path = resolve(checkpoint, folder)
    digest, recorded = recheck(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as pack:
            if torn := pack.testzip():
                raise UserError(f"{path} is damaged in {torn}: fetch or save it again.")
    content, _ = read(path)
    layout = find_layout(content, path)
    state = weights_at(content, "state_dict" if layout == "lightning" else layout, path)
    bad = [key for key, value in state.items() if not bool(value.isfinite().all())]
    if bad:
        raise UserError(
            f"{path} holds weights that are no numbers: {', '.join(bad[:3])} "
            f"({len(bad)} of {len(state)} tensors). Go back to an earlier checkpoint."
        )
    proof = "as recorded" if recorded else "nothing was recorded to compare it with"
    return f"{path}: {len(state)} tensors are whole and finite; sha256 {digest} ({proof})."
