"""`diffdict pull hf://datasets/user/name FOLDER`: features from the hub, shard by shard."""

from pathlib import Path

from diffdict import files
from diffdict.errors import UserError
from diffdict.features.store import FeatureStore


def pull(address: str, folder: str) -> str:
    """All stores of a repository below the folder, whole and checked; a sentence about it."""
    place, root = files.hub_address(address), Path(folder)
    if root.exists() and not root.is_dir():
        raise UserError(f"{folder} is a file: name a folder that the features go into")
    repository = files.HubRepository(place)
    remote = repository.contents()
    inside = f"{place.inside}/" if place.inside else ""
    stores = [path for path in remote if path.endswith("/store.json") and path.startswith(inside)]
    if not stores:
        raise UserError(
            f"{address} holds no features, which diffdict push puts there: a dictionary is read "
            f"where it lies, as {address}"
        )
    for path in stores:
        if (root / path).is_file() and not files.is_same(root / path, remote[path]):
            raise UserError(
                f"{root / path} is of other features than those of {address}: choose another folder"
            )
    folders = tuple(path.removesuffix("store.json") for path in stores)
    repository.fetch_into(root, [path for path in remote if path.startswith(folders)])
    return "\n".join(FeatureStore.open(root / path).verify() for path in sorted(folders))
