"""`diffdict info PATH` and `diffdict verify PATH`: a feature store, a checkpoint, a pipeline."""

from pathlib import Path

from diffdict import checkpoints
from diffdict.backbones.hub.pipeline_facts import describe_pipeline, is_pipeline
from diffdict.errors import UserError
from diffdict.features.store import FeatureStore


def info(path: Path) -> str:
    """Describes a feature store, a checkpoint or a folder of diffusers in one screen."""
    if path.is_dir() and is_pipeline(path):
        return describe_pipeline(path)
    if is_store(path):
        return FeatureStore.open(path).describe()
    return checkpoints.describe(path)


def verify(path: Path) -> str:
    """Checks a store or a checkpoint against its checksums."""
    if is_store(path):
        return FeatureStore.open(path).verify()
    return checkpoints.verify(path)


def is_store(path: Path) -> bool:
    """Whether features lie here; a folder that holds neither them nor weights is refused."""
    if (path / "store.json").is_file() or not path.is_dir():
        return path.is_dir()
    below = [str(one.parent) for one in sorted(path.glob("*/**/store.json"))[:3]]
    if not below and any(one.suffix in checkpoints.WEIGHTS for one in path.iterdir()):
        return False
    there = f"below it are {', '.join(below)}" if below else "extract.py makes features"
    raise UserError(
        f"{path} holds neither features (store.json), nor a checkpoint, nor a pipeline of "
        f"diffusers: name a folder or a file that does; {there}"
    )
