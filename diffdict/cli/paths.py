"""Where the package, its configs and its scripts are: installed, or in a checkout."""

from pathlib import Path

from omegaconf import OmegaConf

PACKAGE = Path(__file__).parent.parent


def folder(name: str) -> str:
    """conf/ or sweeps/: inside the installed package, else beside it in a checkout."""
    packaged = PACKAGE / name
    return str(packaged if packaged.is_dir() else PACKAGE.parent / name)


OmegaConf.register_new_resolver("diffdict.folder", folder, replace=True)
