"""`diffdict info PATH` and `diffdict verify PATH`, for a feature store or a checkpoint."""

from pathlib import Path

from diffdict import checkpoints
from diffdict.features.store import FeatureStore


def info(path: Path) -> str:
    """Describes a feature store or a checkpoint in one screen."""
    if path.is_dir():
        return FeatureStore.open(path).describe()
    return checkpoints.describe(path)


def verify(path: Path) -> str:
    """Checks a store or a checkpoint against its checksums."""
    if path.is_dir():
        return FeatureStore.open(path).verify()
    return checkpoints.verify(path)
