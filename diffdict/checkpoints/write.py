"""A torch file written whole: the new content, or the one that was there."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch

from diffdict import files


def save_whole(content: Mapping, path: str | Path) -> Path:
    """A torch file with this content, or the one that was there.

    By way of memory: of a full disk torch.save would only know that its position is wrong.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return files.write_atomic(path, buffer.getvalue())
