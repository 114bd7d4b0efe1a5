"""The page of feature stores on the hub: what lies in it, and how it is used."""

from collections.abc import Iterable

from diffdict import files
from diffdict.errors import override
from diffdict.features.store import FeatureStore
from diffdict.results.tables import as_markdown

USE = """```sh
diffdict pull hf://datasets/{repo} features
python train.py task=sae paths.features=features dataset=… backbone=… {where}
```"""


def store_card(stores: Iterable[FeatureStore], repo: str, licence: str) -> str:
    """README.md: a head that the hub reads, a row a stream, and the commands."""
    stores = list(stores)
    rows = [row for store in stores for row in _rows(store)]
    head = ["---", f"license: {licence}", 'tags: ["features", "diffusion", "diffdict"]', "---"]
    first = next(iter(stores[0].features.values()))
    where = " ".join([override("timestep", first.timestep), override("block", first.block)])
    title = f"# {repo.partition('/')[2]}: what a frozen network sees"
    use = USE.format(repo=repo, where=where)
    return "\n\n".join(["\n".join(head), title, as_markdown(rows).rstrip(), use]) + "\n"


def _rows(store: FeatureStore) -> list[dict[str, object]]:
    """A stream each."""
    facts = store.identity
    shared = {name: facts[name] for name in ("dataset", "split", "pictures", "image_size")}
    shared |= {"backbone": facts["backbone"], "weights' sha256": facts["backbone_sha256"]}
    return [
        {
            **shared,
            "stream": name,
            "timestep": stream.timestep,
            "block": stream.block,
            "grid": f"{stream.height}×{stream.width}",
            "channels": stream.channels,
            "size": files.human_bytes(stream.picture_bytes * len(store)),
        }
        for name, stream in store.streams.items()
    ]
