"""The page of a dictionary on the hub: what it was learned on, and its figures beside nulls."""

from collections.abc import Mapping

from diffdict.files.json_text import json_text
from diffdict.results.tables import as_markdown
from diffdict.sae.grid import ALONE

GRID = "concepts.png"
NULLS = {  # what chance and simpler answers reach, by the figure's ending
    "": "these latents",
    "_channels": "raw channels",
    "_pca": "principal components",
    "_random": "random directions",
    "_permuted": "masks of other pictures",
}
LOADING = """```python
from diffdict.dictionary import Dictionary

dictionary = Dictionary.load("{address}"{name})
seen = dictionary.encode("picture.png")  # codes, and where they are

from sae_lens import SAE  # tokens alone

sae = SAE.from_pretrained("{repo}", "dictionary{inside}")
```"""


def model_card(
    cards: Mapping[str, Mapping],
    figures: Mapping[str, float],
    repo: str,
    licence: str,
    grid: bool,
) -> str:
    """README.md of dictionaries by name: a head that the hub reads, and the text for people.

    `figures`: what a run measured, by name: test/fvu, or test/scale20/fvu of one of several.
    """
    first = next(iter(cards.values()))
    tags = ["sparse-autoencoder", "diffusion", "interpretability", "diffdict", "saelens"]
    head = ["---", f"license: {licence}", "library_name: diffdict", f"tags: {json_text(tags)}"]
    title = f"# {repo.partition('/')[2]}: what {_network(first)} knows about {first['dataset']}"
    kinds = [f"- {_kind(card, name)}" for name, card in cards.items()]
    parts = [
        "\n".join([*head, "---"]),
        title,
        "\n".join(["Sparse dictionaries of a frozen network's features:", "", *kinds]),
        _loading(repo, next(iter(cards))),
        f"## Learned on\n\n{as_markdown(_origin(first)).rstrip()}",
    ]
    parts += [_figures(name, figures) for name in cards if _own(name, figures)]
    if grid:
        parts.append(
            "## Concepts\n\nChosen on training pictures, shown on test pictures.\n\n"
            f"![Picture, truth, and the two best latents of each class]({GRID})"
        )
    return "\n\n".join(parts) + "\n"


def _loading(repo: str, name: str) -> str:
    """How to load the first of them."""
    alone = name == ALONE
    argument, inside = ("", "") if alone else (f', name="{name}"', f"/{name}")
    return LOADING.format(address=f"hf://{repo}", repo=repo, name=argument, inside=inside)


def _network(card: Mapping) -> str:
    backbone = card.get("backbone")
    return str(backbone.get("name")) if isinstance(backbone, Mapping) else "a network"


def _kind(card: Mapping, name: str) -> str:
    sae = card["sae"]
    options = {key: sae[key] for key in ("k", "l1", "groups") if sae.get(key) is not None}
    tail = "".join(f", {key} {value}" for key, value in options.items())
    head = "" if name == ALONE else f"`{name}`: "
    return f"{head}{sae['latents']} latents of {sae['d_in']} channels, {sae['architecture']}{tail}"


def _origin(card: Mapping) -> list[dict[str, object]]:
    """A row a fact: the pictures, the network, the place in it."""
    backbone = card.get("backbone") or {}
    facts = {
        "pictures": f"{card['dataset']}, {card.get('pictures')} of its {card.get('split')} split",
        "data hash": card.get("dataset_hash"),
        "image size": card.get("image_size"),
        "classes": ", ".join(card.get("class_names") or []),
        "backbone": backbone.get("name"),
        "checkpoint": backbone.get("checkpoint"),
        "revision": backbone.get("revision"),
        "weights' sha256": card.get("backbone_sha256"),
        "timestep": card.get("timestep"),
        "block": card.get("block"),
        "noise": card.get("noise") and json_text(card["noise"]),
        "steps": card.get("step"),
        "made by": ", ".join(f"{key} {value}" for key, value in card.get("versions", {}).items()),
    }
    rows = [(key, value) for key, value in facts.items() if value not in (None, "")]
    return [{"": key, "value": value} for key, value in rows]


def _own(name: str, figures: Mapping[str, float]) -> dict[str, float]:
    """A dictionary's test figures without its name in theirs."""
    start = "test/" if name == ALONE else f"test/{name}/"
    return {key.removeprefix(start): one for key, one in figures.items() if key.startswith(start)}


def _figures(name: str, figures: Mapping[str, float]) -> str:
    """IoU with classes beside its nulls, then every other figure."""
    values = _own(name, figures)
    beside = {what: values.get(f"iou{ending}") for ending, what in NULLS.items()}
    title = "## Figures on test pictures" + ("" if name == ALONE else f": {name}")
    parts = [title]
    if beside["these latents"] is not None:
        row = {"IoU with classes": "mean", **beside}
        parts.append(as_markdown([row]).rstrip())
    shown = {f"iou{ending}" for ending in NULLS}
    rows = [{"figure": key, "value": values[key]} for key in values if key not in shown]
    return "\n\n".join([*parts, as_markdown(rows).rstrip()] if rows else parts)
