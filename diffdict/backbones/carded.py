"""The network that a dictionary's card names, built."""

from collections.abc import Mapping
from importlib import import_module

from diffdict.backbones.base import Backbone
from diffdict.errors import UserError, one_line

ROOM = "diffdict.backbones."  # nothing else is ever built at a card's word


def carded_backbone(card: Mapping) -> Backbone:
    """The network that the card names, with the weights that the dictionary was learned on."""
    needed = ("backbone", "timestep", "block")
    if missing := [key for key in needed if key not in card]:
        raise UserError(
            f"This dictionary's card does not say its {', '.join(missing)}, so pictures cannot "
            f"be encoded: give tokens to .sae.encode, or load an export of train.py"
        )
    net = build_backbone(card["backbone"])
    sha256 = card.get("backbone_sha256")
    if sha256 not in (None, net.sha256):
        raise UserError(
            f"The dictionary was learned on {net.name} with the weights {sha256[:12]}…, "
            f"checkpoint={card['backbone'].get('checkpoint')} holds {net.sha256[:12]}…: "
            f"put the right weights there"
        )
    return net


def build_backbone(node: object) -> Backbone:
    """The backbone that a resolved config node describes, and nothing but a backbone."""
    target = node.get("_target_") if isinstance(node, Mapping) else None
    if not isinstance(target, str) or not target.startswith(ROOM):
        raise UserError(
            f"The card's backbone is refused: its _target_ must lie in {ROOM}*, got {target!r}. "
            f"A dictionary from elsewhere works on tokens: .sae.encode"
        )
    module, _, name = target.rpartition(".")
    try:
        backbone = getattr(import_module(module), name)
        if not (isinstance(backbone, type) and issubclass(backbone, Backbone)):
            raise TypeError(f"{name} is no backbone")
        return backbone(**{key: value for key, value in node.items() if key != "_target_"})
    except UserError:
        raise
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"The card's backbone cannot be built: {one_line(error)}") from error
