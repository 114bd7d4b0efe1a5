"""`condition=file`: anybody's vectors, from an .npy or .npz."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.conditions.base import (
    ConditionRows,
    ConditionSource,
    MakesVectors,
    check_vectors,
    plain_rows,
)
from diffdict.errors import UserError, one_line


class FileVectors(ConditionSource):
    """Every row of a file's array, in order; in an .npz the array `vectors`, or its only one."""

    def __init__(self, path: str | None, each: int = 1, undirected: float | int = 0.0) -> None:
        if path is None:
            raise UserError("condition=file needs its vectors: condition.path=FILE.npy or .npz")
        if each < 1:
            raise UserError(f"condition.each is at least 1, got {each}: condition.each=1")
        self.path, self.each, self.undirected = Path(path).expanduser(), each, undirected
        self.check_share()
        self.vectors = read_vectors(self.path)
        self.number = len(self.vectors) * each

    def rows(
        self, maker: MakesVectors | None, width: int, number: int, device: torch.device
    ) -> ConditionRows:
        """Each vector `each` times in turn."""
        names = [f"row {row}" for row in range(len(self.vectors))]
        check_vectors(self.vectors, width, names, str(self.path), "The network")
        row = torch.arange(len(self.vectors)).repeat_interleave(self.each)
        return plain_rows(self.vectors[row], [names[i] for i in row.tolist()])

    def facts(self, maker: MakesVectors | None) -> Mapping[str, object]:
        """The file's bytes."""
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return {
            "condition": "file",
            "vectors_sha256": digest,
            "each": self.each,
            "undirected": self.undirected,
        }


def read_vectors(path: Path) -> Float[Tensor, "rows width"]:
    """The array of a file; nothing in it is executed."""
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content as arrays:
                names = arrays.files
                name = "vectors" if "vectors" in names else names[0] if len(names) == 1 else None
                content = None if name is None else arrays[name]
    except FileNotFoundError:
        raise UserError(f"No file condition.path={path}: name an .npy or .npz of vectors") from None
    except (ValueError, OSError, EOFError, KeyError, BadZipFile) as error:
        raise UserError(
            f"{path} is no .npy or .npz of numbers ({one_line(error)[:80]}): save the vectors with "
            "numpy.save(FILE, array)"
        ) from error
    if content is None:
        raise UserError(
            f"{path} holds {', '.join(names) or 'nothing'}: call the array of vectors `vectors`"
        )
    if not np.issubdtype(content.dtype, np.floating) or content.ndim != 2 or not len(content):
        raise UserError(
            f"{path} holds {content.dtype} of shape {list(content.shape)}: vectors are floating-"
            "point numbers, rows × width, one row or more"
        )
    return torch.from_numpy(content.astype(np.float32))
