"""Mean and covariance of features in pytorch-fid's form: an .npz file of `mu` and `sigma`.

Ours also say what they are of (`provenance`, JSON) and hold some pictures' features (`rows`), which
other tools leave alone.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from numpy.lib.npyio import NpzFile
from torch import Tensor

from diffdict import files
from diffdict.errors import UserError
from diffdict.metrics.frechet import Statistics

BROKEN = (  # what zipfile and numpy say of a file that is none of theirs, or is no more
    *(zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError),
    *(ValueError, TypeError, OverflowError, MemoryError, SyntaxError),
)
ARRAYS = ("mu", "sigma", "rows", "provenance")
SPATIAL = {"mu": "mu_s", "sigma": "sigma_s"}  # where guided-diffusion's archives keep sFID's


class StatisticsFile(NamedTuple):
    """What such a file holds."""

    statistics: Statistics
    provenance: dict[str, object] | None = None  # what it is of; None: another tool's
    rows: Float32[Tensor, "pictures dim"] | None = None  # features of some of the pictures


def write_statistics(
    path: str | Path,
    statistics: Statistics,
    provenance: Mapping[str, object] | None = None,
    rows: Float32[Tensor, "pictures dim"] | None = None,
) -> None:
    """A file that pytorch-fid and other tools of FID read; whole or absent."""
    arrays = {"mu": statistics.mu.cpu().numpy(), "sigma": statistics.sigma.cpu().numpy()}
    if rows is not None:
        arrays["rows"] = rows.cpu().numpy()
    if provenance is not None:
        arrays["provenance"] = np.array(files.json_text(provenance))
    data = io.BytesIO()
    np.savez(data, **arrays)
    files.write_atomic(Path(path), data.getvalue())


def read_statistics(path: str | Path, spatial: bool = False) -> StatisticsFile:
    """What pytorch-fid or `write_statistics` has written, checked; nothing is unpickled.

    `spatial`: those of sFID, where the file has them beside FID's.
    """
    try:
        with NpzFile(path, allow_pickle=False) as file:
            names = list(file.files)
            both = spatial and set(SPATIAL.values()) <= set(names)
            places = {key: SPATIAL.get(key, key) if both else key for key in ARRAYS}
            arrays = {key: np.asarray(file[at]) for key, at in places.items() if at in names}
    except BROKEN as error:
        raise UserError(
            f"{path} is no whole .npz file of mu and sigma ({error}): write it again, or leave it "
            "out"
        ) from error
    if "mu" not in arrays or "sigma" not in arrays:
        raise UserError(
            f"{path} holds {' '.join(sorted(names)) or 'nothing'}, statistics are mu and sigma: "
            "give a file that pytorch-fid --save-stats has written"
        )
    mu, sigma, rows = arrays["mu"], arrays["sigma"], arrays.get("rows")
    if not _fit(mu, sigma):
        raise UserError(
            f"{path} holds mu {mu.dtype} {list(mu.shape)} and sigma {sigma.dtype} "
            f"{list(sigma.shape)}: they must be floating-point numbers, a vector and a square "
            "matrix as wide"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(f"{path} holds NaN or infinity: statistics are finite, write them again")
    provenance = None if "provenance" not in arrays else _facts(path, arrays["provenance"])
    if provenance is None:  # another tool's array of that name would mean something else
        rows = None
    elif rows is not None and (rows.dtype != np.float32 or rows.shape[1:] != mu.shape):
        raise UserError(
            f"{path} holds rows {rows.dtype} {list(rows.shape)} beside {len(mu)} means: it was "
            "edited, write it again"
        )
    return StatisticsFile(
        Statistics(*(torch.from_numpy(x.astype(np.float64)) for x in (mu, sigma))),
        provenance,
        None if rows is None else torch.from_numpy(rows),
    )


def _facts(path: str | Path, text: np.ndarray) -> dict[str, object]:
    """What the file says that it is of."""
    try:
        facts = json.loads(str(text))
        if not isinstance(facts, dict):
            raise ValueError("it holds no facts by name")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"The provenance in {path} was edited or damaged ({error}): write it again, or leave "
            "it out"
        ) from error
    return facts


def _fit(mu: np.ndarray, sigma: np.ndarray) -> bool:
    """Whether they are a mean and its covariance."""
    shaped = mu.ndim == 1 and len(mu) > 0 and sigma.shape == (len(mu), len(mu))
    return shaped and mu.dtype.kind == sigma.dtype.kind == "f"
