"""`conditions.npz` beside the samples: their vectors and what they are of, made once."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from diffdict import files
from diffdict.conditions.base import ConditionRows
from diffdict.errors import UserError, one_line
from diffdict.reports.drawing.colours import as_bytes

CONDITIONS = "conditions.npz"
OPTIONAL = {"line": np.int64, "target": np.int64, "latent": np.int64, "strength": np.float64}


def write_rows(folder: Path, rows: ConditionRows) -> None:
    """Whole or not at all."""
    arrays = {
        "vectors": rows.vectors.numpy(),
        "caption": np.array(list(rows.captions), dtype=str),
        "source": np.array(list(rows.source), dtype=np.int64),
        "start": np.array(list(rows.start), dtype=np.int64),
        "steps": np.array(list(rows.steps), dtype=np.int64),
    }
    for key, dtype in OPTIONAL.items():
        if (values := getattr(rows, key)) is not None:
            arrays[key] = np.array(list(values), dtype=dtype)
    if rows.pictures is not None:
        arrays["pictures"] = as_bytes(rows.pictures)
    files.write_atomic(folder / CONDITIONS, lambda stream: np.savez(stream, **arrays))


def read_rows(folder: Path) -> ConditionRows:
    """The rows that a folder's samples are drawn from, the same bits on every rank."""
    path = folder / CONDITIONS
    try:
        with np.load(path, allow_pickle=False) as arrays:
            pictures = None
            if "pictures" in arrays:
                pictures = torch.from_numpy(arrays["pictures"]).permute(0, 3, 1, 2)
                pictures = pictures.float() / 127.5 - 1
            return ConditionRows(
                torch.from_numpy(arrays["vectors"]),
                arrays["caption"].tolist(),
                arrays["source"].tolist(),
                pictures,
                arrays["start"].tolist(),
                arrays["steps"].tolist(),
                **{key: arrays[key].tolist() for key in OPTIONAL if key in arrays},
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{path} was edited or damaged ({one_line(error)[:80]}): delete it, it is made again"
        ) from error
