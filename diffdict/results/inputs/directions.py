"""Directions in codes along which an attribute comes and goes, from a run or a released file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.base import Backbone
from diffdict.checkpoints.read import read, unwrapped
from diffdict.errors import UserError

PUBLISHED = "ema_classifier"  # where PDAE's file holds it
CELEBA = (  # the forty, in the order of their file
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs"),
    *("Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows"),
    *("Chubby", "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup"),
    *("High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard"),
    *("Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns"),
    *("Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat"),
    *("Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young"),
)


class Directions(NamedTuple):
    """A linear classifier of normalised codes, a direction an attribute."""

    names: Sequence[str]
    weight: Float[Tensor, "attributes code"]  # 0 where a mask left the entry out
    bias: Float[Tensor, " attributes"]
    mean: Float[Tensor, " code"]
    std: Float[Tensor, " code"]
    backbone: str | None = None  # whose codes; None: the file does not say it
    sha256: str | None = None

    def scores(self, codes: Float[Tensor, "pictures code"]) -> Float[Tensor, "pictures attributes"]:
        """How much each code speaks for each attribute: logits."""
        normal = (codes - self.mean.to(codes)) / self.std.to(codes)
        return normal @ self.weight.to(codes).T + self.bias.to(codes)

    def check(self, net: Backbone, code: int, sha256: str) -> None:
        """Directions are those of one network's codes, of weights with this hash."""
        if self.weight.shape[1] != code:
            raise UserError(
                f"Directions of {self.weight.shape[1]} entries do not fit {net.name}, whose codes "
                f"have {code}: give those that task=direction learned on it"
            )
        if self.sha256 not in (None, sha256):
            raise UserError(
                f"These directions were learned on {self.backbone} with weights "
                f"{self.sha256[:12]}…, {net.name} has {sha256[:12]}…: learn them on these "
                "(task=direction)"
            )

    def chosen(self, names: Sequence[str] | None) -> list[int]:
        """The places of these attributes; None: of all."""
        if names is None:
            return list(range(len(self.names)))
        if unknown := [name for name in names if name not in self.names]:
            raise UserError(f"No direction is of {unknown[0]!r}: there are {', '.join(self.names)}")
        return [self.names.index(name) for name in names]


def open_directions(path: str | Path, moments: str | None = None) -> Directions:
    """Those of a run of task=direction, or PDAE's classifier with the mean and std beside it."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"No file {path}: a direction is outputs/…/last.ckpt of task=direction")
    content, _ = read(path)
    if PUBLISHED in content:
        return _published(path, content[PUBLISHED], moments)
    facts = content.get("direction")
    if not isinstance(facts, Mapping):
        raise UserError(
            f"{path} is no run of task=direction, which learns directions of attributes: "
            "python train.py task=direction …"
        )
    state = content["state_dict"]
    if not bool(state["best_weight"].isfinite().all()):
        raise UserError(f"{path} was never validated, so no direction is chosen: train an epoch")
    return Directions(
        list(facts["attributes"]),
        state["best_weight"],
        state["best_bias"],
        state["code_mean"],
        state["code_std"],
        facts["backbone"],
        facts["backbone_sha256"],
    )


def _published(path: Path, state: Mapping, moments: str | None) -> Directions:
    """A bare Linear on normalised codes."""
    state = unwrapped(dict(state))
    parameters = {key.rpartition(".")[2]: value for key, value in state.items()}
    weight, bias = parameters.get("weight"), parameters.get("bias")
    if len(state) != 2 or weight is None or bias is None or weight.ndim != 2:
        raise UserError(f"{path} holds no linear classifier under {PUBLISHED}")
    if moments is None:
        raise UserError(
            f"{path} reads normalised codes: name the file with their mean and std too "
            "(latents=trained-models/latents/SET.pt)"
        )
    names = CELEBA if len(weight) == len(CELEBA) else [f"attribute {i}" for i in range(len(weight))]
    return Directions(list(names), weight, bias, *read_moments(moments, weight.shape[1]))


def read_moments(path: str, code: int) -> tuple[Float[Tensor, " code"], Float[Tensor, " code"]]:
    """Mean and std of codes as PDAE releases them."""
    if not Path(path).is_file():
        raise UserError(f"No file {path}: it holds the mean and std of codes")
    content, _ = read(Path(path))
    moments = [content.get(key) for key in ("mean", "std")]
    if not all(isinstance(one, Tensor) and one.numel() == code for one in moments):
        raise UserError(f"{path} does not hold mean and std of {code} numbers each")
    mean, std = (one.float().flatten() for one in moments)
    return mean, torch.where(std > 0, std, 1.0)
