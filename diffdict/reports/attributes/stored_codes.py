"""Codes of a set's pictures from a store, and which of their entries each part is."""

import re
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from diffdict.errors import UserError
from diffdict.features.codes.code_parts import CODE
from diffdict.features.store import FeatureStore, store_path


class StoredCodes:
    """What extract.py block=all has left of an encoder: the block `code`, and its parts."""

    def __init__(self, root: str | Path, dataset: str, name: str, split: str) -> None:
        path = store_path(Path(root), dataset, name, split)
        if not (path / "store.json").is_file():
            raise UserError(
                f"No codes of {dataset} at {path}: python extract.py backbone=pdae "
                f"backbone.checkpoint=FILE backbone.name={name} block=all"
            )
        self.store = FeatureStore.open(path)
        streams = self.store.features
        if CODE not in streams:
            raise UserError(
                f"{path} holds {', '.join(streams)}, not block=code: name the store of an encoder"
            )
        self.parts = {CODE: slice(0, streams[CODE].channels)}
        begin = 0
        numbered = [name for name in streams if re.fullmatch(r"(stage|segment)\d+", name)]
        for part in sorted(numbered, key=lambda one: int(re.sub(r"\D", "", one))):
            end = begin + streams[part].channels
            self.parts[part], begin = slice(begin, end), end

    def of(self, pictures: list[int]) -> Float32[Tensor, "pictures code"]:
        """One code a picture."""
        if pictures and max(pictures) >= len(self.store):
            raise UserError(
                f"{self.store.path} holds the codes of {len(self.store)} pictures, "
                f"{max(pictures) + 1} are looked at: extract again with as many"
            )
        return torch.stack([self.store[index][CODE].float().flatten() for index in pictures])
