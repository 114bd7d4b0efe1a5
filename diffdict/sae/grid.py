"""Several dictionaries from one set of settings."""

from collections.abc import Mapping
from functools import partial
from itertools import product

from diffdict.errors import UserError
from diffdict.sae.base import Sae

LISTED = ("scale", "latents", "k", "sparsity")  # settings that may be lists: one dictionary a value
ALONE = "sae"  # the name of a single dictionary


def expand_grid(sae: partial) -> dict[str, "partial[Sae]"]:
    """One set of settings for each combination of the listed values, by name: scale10_k32."""
    lists = {key: value for key in LISTED if isinstance(value := sae.keywords.get(key), list)}
    for key in LISTED:
        _check(key, lists.get(key, [sae.keywords.get(key)]))
    if "scale" in lists and sae.keywords.get("latents") is not None:
        raise UserError(
            f"sae.latents={sae.keywords['latents']} counts instead of sae.scale={lists['scale']}: "
            f"give one of them"
        )
    every = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
    return {ALONE if len(every) == 1 else _name(values): partial(sae, **values) for values in every}


def _check(key: str, values: list) -> None:
    fits = all(type(value) in (int, float) or values == [None] for value in values)
    if not values or not fits or len(set(values)) < len(values):
        raise UserError(f"sae.{key} is a number or a list of different numbers, got {values}")


def _name(values: Mapping[str, float | int]) -> str:
    """scale2p5_k32: neither a module nor a log may have a point in its name."""
    words = [f"{key}{value:.12g}" for key, value in values.items()]
    return "_".join(words).replace(".", "p")
