"""What tells one feature store from another, and where each lies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from diffdict import files
from diffdict.errors import UserError

POOL = "mean"  # over the positions of a map
FORMAT = 1  # of files and folders; another one is refused
LARGE = 100_000  # pictures; from here on a shard holds 256: a million are 3,907 files a stream


class Identity(NamedTuple):
    """The facts that make features what they are: a store of others is refused."""

    dataset: str
    dataset_hash: str  # names, sizes and file hashes, or a drawn set's generator and seed
    split: str
    pictures: int
    image_size: int
    num_classes: int
    class_names: Sequence[str]
    ignore_label: int | None
    backbone: str
    backbone_sha256: str
    noise: Mapping[str, bool | int | str] | None  # Noise.facts(); None without timesteps
    compute: str  # fp32, bf16, fp16
    pictures_per_shard: int
    format: int = FORMAT
    pool: str | None = None  # mean: each map is one token, its mean; None: maps as they are
    training: Mapping | None = None  # what was done to training pictures, and in which epoch

    @property
    def facts(self) -> dict[str, object]:
        """These, for a file: those that a store has always had, and the others where they are."""
        facts = files.as_json_values(self._asdict())
        return {k: v for k, v in facts.items() if k not in ("pool", "training") or v is not None}


def pictures_per_shard(pictures: int) -> int:
    """A sixteenth of a small set: 30 pictures still split over ranks, and a kill loses little."""
    return 256 if pictures >= LARGE else max(1, min(64, pictures // 16))


def check_pool(pool: str | None) -> None:
    """Nothing, or that there is no such way to make one vector of a map."""
    if pool not in (None, POOL):
        raise UserError(f"pool is {POOL} or null, got {pool!r}: pool={POOL}")


def store_path(
    root: str | Path, dataset: str, backbone: str, split: str, pool: str | None = None
) -> Path:
    """Where the features of that split are kept; pooled ones lie beside the maps: train-mean."""
    return Path(root) / dataset / backbone / (split if pool is None else f"{split}-{pool}")
