"""`diffdict info PATH` and `diffdict verify PATH`: a feature store, a checkpoint, a pipeline."""

from pathlib import Path

from diffdict import checkpoints
from diffdict.backbones.hub.pipeline_facts import describe_pipeline, is_pipeline
from diffdict.features.store import FeatureStore


def info(path: Path) -> str:
    """Describes a feature store, a checkpoint or a folder of diffusers in one screen."""
    if path.is_dir() and is_pipeline(path):
        return describe_pipeline(path)
    if path.is_dir():
        return FeatureStore.open(path).describe()
    return checkpoints.describe(path)


def verify(path: Path) -> str:
    """Checks a store or a checkpoint against its checksums."""
    if path.is_dir():
        return FeatureStore.open(path).verify()
    return checkpoints.verify(path)
