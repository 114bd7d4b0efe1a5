"""What a dictionary was learned on: its card, of an export or of a run; and latents' numbers."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffdict import checkpoints
from diffdict.checkpoints.read import read
from diffdict.errors import UserError, one_line, override
from diffdict.sae.base import Sae
from diffdict.sae.load import LoadedDictionary, load_dictionary

NEEDED = ("backbone", "timestep", "block")  # what a card has to say of a network
PLAIN = {"normalise": "none", "drop_channels": []}  # what is done to tokens, unless it is said
OF_TOKENS = ("mean", "b_dec")  # as wide as a token, which may be as wide as the dictionary


def read_dictionary(path: str | Path, name: str | None = None) -> LoadedDictionary:
    """An export, a run's folder, a checkpoint or another's file, always with a card."""
    loaded = load_dictionary(path, name)
    if loaded.card is not None:
        return loaded
    card = card_of_config(checkpoints.config_of(path), Path(path))
    content, _ = read(checkpoints.resolve(path))
    sha256 = content.get("facts", {}).get("backbone_sha256")
    return LoadedDictionary(
        loaded.sae, card if sha256 is None else {**card, "backbone_sha256": sha256}
    )


@torch.no_grad()
def in_training_order(sae: Sae, card: Mapping) -> Sae:
    """The dictionary with the latents' numbers of training: those of its tables and checkpoint.

    An export stands by frequency, and its card says the `order`; without one it has its own.
    """
    order = card.get("order")
    if order is None:
        return sae
    if not isinstance(order, list) or sorted(order) != list(range(sae.latents)):
        raise UserError(
            f"The card's order is no permutation of {sae.latents} latents: card and weights are "
            "not of one export"
        )
    ordered, place = deepcopy(sae), torch.tensor(order)
    theirs = sae.state_dict()
    for key, value in ordered.state_dict().items():
        if key not in OF_TOKENS and value.ndim and len(value) == sae.latents:
            value[place.to(value.device)] = theirs[key]
    return ordered


def check_card(card: Mapping) -> None:
    """Refuses a dictionary of which nobody knows what it was learned on."""
    if missing := [key for key in NEEDED if key not in card]:
        raise UserError(
            f"The dictionary has no card that says its {', '.join(missing)}, only how to read "
            "tokens: name a run of task=sae or its dictionary/, or write card.json with backbone, "
            "timestep and block beside its weights"
        )
    if card["timestep"] is None:
        raise UserError(
            "The dictionary was learned on a network without timesteps, which draws nothing: name "
            "one that was learned on a diffusion network"
        )


def check_tokens(card: Mapping, given: Mapping, what: str) -> None:
    """Refuses tokens to which not the same was done as to those that were learned from."""
    facts = {key: card.get(key) or plain for key, plain in PLAIN.items()}
    if wrong := [key for key in PLAIN if facts[key] != given.get(key, PLAIN[key])]:
        key = wrong[0]
        raise UserError(
            f"{what} was learned with {override(f'data.{key}', facts[key])}, and here tokens "
            f"have {override(f'data.{key}', given.get(key, PLAIN[key]))}: both must be the same"
        )


def card_of_config(config: Mapping, path: Path) -> dict:
    """What a card says, out of a run's unresolved config."""
    places = {key: key for key in ("backbone", "timestep", "block", "noise")}
    places |= {key: f"data.{key}" for key in PLAIN}
    places |= {"seed": "sae.seed", "mix": "data.mix"}
    places |= {"image_size": "dataset.image_size", "dataset": "dataset.name"}
    try:
        whole = OmegaConf.create(config)
        chosen = {key: OmegaConf.select(whole, place) for key, place in places.items()}
        chosen = {
            key: OmegaConf.to_container(value, resolve=True)
            if OmegaConf.is_config(value)
            else value
            for key, value in chosen.items()
        }
    except OmegaConfBaseException as error:
        raise UserError(
            f"The config in {path} cannot be resolved here ({one_line(error)}): load the folder "
            f"dictionary/ that the run wrote beside it"
        ) from error
    unsaid = {key: (None, plain) for key, plain in PLAIN.items()}
    return {
        key: value
        for key, value in chosen.items()
        if key == "timestep" or value not in unsaid.get(key, (None,))
    }
