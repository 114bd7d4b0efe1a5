"""Why weights do not fit a network: the keys that differ, and the flag that is probably wrong."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from diffdict.checkpoints.architecture import Flag, infer_architecture


def misfit(net: nn.Module, ours: Mapping, theirs: Mapping, source: str | Path) -> str:
    """A sentence about shapes that differ, ending with the likely cause."""
    missing = [key for key in ours if key not in theirs]
    extra = [key for key in theirs if key not in ours]
    shapes = [
        f"{key} {theirs[key]} in the file, {ours[key]} in the network"
        for key in ours
        if key in theirs and ours[key] != theirs[key]
    ]
    parts = [
        f"{len(names)} {what} ({', '.join(names[:most])}{', …' if len(names) > most else ''})"
        for names, what, most in (
            (missing, "missing from the file", 3),
            (extra, "unknown to the network", 3),
            (shapes, "of another shape", 2),
        )
        if names
    ]
    name = getattr(net, "name", None) or type(net).__name__
    return f"{source} does not fit {name}: {'; '.join(parts)}. {_cause(net, ours, theirs)}"


def _cause(net: nn.Module, ours: Mapping, theirs: Mapping) -> str:
    """The flags that differ between the network in the file and this one."""
    size = getattr(net, "image_size", None)
    size = size if isinstance(size, int) else None
    file, network = infer_architecture(theirs, size), infer_architecture(ours, size)
    if file.kind != network.kind:
        kinds = f"the file holds {_a(file.kind)}, the network is {_a(network.kind)}"
        return f"Likely cause: {kinds}. Choose the backbone that the file was made for."
    if "ssl_dim" in file.flags and "ssl_dim" not in network.flags:
        return (
            "Likely cause: the file is an RCDM (it has ssl_emb), and this backbone is told no "
            "vector: backbone=rcdm, or backbone=toy_rcdm for one of the toy faces."
        )
    if file.kind == "ResNet" and file.flags != network.flags:
        return f"Likely cause: another ResNet. {_resnets(file.flags, network.flags)}"
    wrong = {
        flag: value
        for flag, value in file.flags.items()
        if flag in network.flags and network.flags[flag] != value
    }
    if wrong.keys() == {"img_size"}:  # the network has the dataset's
        size, ours = wrong["img_size"], network.flags["img_size"]
        return (
            f"Likely cause: the file is of {size}×{size} pictures, this network of {ours}×{ours}: "
            f"say dataset.image_size={size}"
        )
    if wrong:
        corrections = ", ".join(f"backbone.{flag}={_typed(value)}" for flag, value in wrong.items())
        was = ", ".join(_typed(network.flags[flag]) for flag in wrong)
        return (
            f"Likely cause: wrong flags. The file was made with {corrections} "
            f"(the network has {was})."
        )
    if theirs.get("label_emb.weight") != ours.get("label_emb.weight"):
        return "Likely cause: another number of classes (the rows of label_emb.weight)."
    return (
        "Likely cause: another network, or a part of one; `diffdict info` says what the file holds."
    )


def _resnets(file: Mapping[str, Flag], network: Mapping[str, Flag]) -> str:
    if file.get("width") != network.get("width"):
        widths = f"width {file.get('width')} in the file, {network.get('width')} here"
        return f"It has {widths}: swav is width 1, swav_w2 width 2."
    blocks = f"{file.get('blocks in layer3')} blocks in layer3, {network.get('blocks in layer3')}"
    return f"It has {blocks} here: a ResNet-50 has 6, a ResNet-101 23."


def _a(kind: str | None) -> str:
    return f"a {kind}" if kind else "a network of unknown kind"


def _typed(value: Flag) -> str:
    """The value as it is typed on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    return f"'{value}'" if isinstance(value, str) else str(value)
