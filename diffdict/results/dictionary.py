"""What was learned, as others can load it: in SAELens's layout with a card, at each validation."""

import math
from collections.abc import Mapping
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor

from diffdict import __version__
from diffdict.sae import saelens
from diffdict.sae.base import Sae
from diffdict.sae.grid import ALONE

FACTS = (  # of the data, what a reader of the card needs
    *("dataset", "dataset_hash", "split", "pictures", "image_size", "class_names", "noise"),
    *("backbone_sha256", "d_in", "grid", "mix", "maps", "dims", "gamma"),
    *("normalise", "drop_channels"),  # where something was done to the tokens
)


class KeepDictionary(pl.Callback):
    """`<run>/dictionary/`, or `<run>/dictionary/<name>/` for each of several."""

    def __init__(self, card: Mapping | None = None) -> None:
        """`card`: what is to be said of all of them; the data's facts and the figures are added."""
        self.card = dict(card or {})
        self.step: int | None = None  # of the last export

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says it where there will be nothing that SAELens knows."""
        saes = [one.sae for one in pl_module.dictionaries().values()]
        kinds = {type(sae).__name__ for sae in saes if not sae.inference}
        if kinds and trainer.is_global_zero:
            print(f"dictionary/ is not written: {', '.join(kinds)} says no `inference`")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes with fresh figures and frequencies."""
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._write(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the last state, unless a validation just did."""
        if self.step != trainer.global_step:
            self._write(trainer, pl_module)

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step = trainer.global_step
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / "dictionary"
        facts = trainer.datamodule.facts if trainer.datamodule else {}
        shared = {
            **{key: facts[key] for key in FACTS if key in facts},
            **self.card,
            "step": trainer.global_step,
            "versions": {"diffdict": __version__, "torch": str(torch.__version__)},
        }
        for name, (sae, _) in pl_module.dictionaries().items():
            if not sae.inference:
                continue
            figures = _figures(trainer.callback_metrics, name)
            place = folder if name == ALONE else folder / name
            saelens.export(sae, place, {**about(sae), **shared, "figures": figures})


def about(sae: Sae) -> dict[str, object]:
    """What kind of dictionary this is."""
    kind = {"architecture": sae.architecture, "d_in": sae.d_in, "latents": sae.latents}
    return {"sae": {**kind, **sae.options}}


def _figures(metrics: Mapping[str, Tensor], name: str) -> dict[str, float | None]:
    """This dictionary's last figures, without its name in theirs; null for what is no number."""
    figures = {}
    for key, value in metrics.items():
        split, _, rest = key.partition("/")
        whose, _, figure = rest.rpartition("/")
        if whose in ("", name) and torch.is_tensor(value) and value.numel() == 1:
            number = float(value)
            figures[f"{split}/{figure}"] = number if math.isfinite(number) else None
    return figures
