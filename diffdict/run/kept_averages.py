"""Further averages of a network that learns, each with a decay of its own and a file of its own."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
from torch import nn

from diffdict.errors import UserError
from diffdict.results.weights import export_weights
from diffdict.training.average import average_decay, update_average


class KeepAverages(pl.Callback):
    """`<run>/ema_0.999.safetensors` at a training's end, for every decay beside model.ema_decay.

    That one is judged, sampled and handed on by last.ckpt; these go on with a resumed run.
    """

    def __init__(self, decays: Sequence[float] = ()) -> None:
        for decay in decays:
            if not 0 <= decay < 1 or list(decays).count(decay) > 1:
                raise UserError(
                    f"callbacks.averages.decays lie in [0, 1), each once, got {list(decays)}: "
                    "[0.999,0.9999]"
                )
        self.decays, self.averages = list(decays), nn.ModuleList()
        self._loaded: list[Mapping] | None = None
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """All begin as the task's own average, or as a checkpoint has them."""
        self.averages = nn.ModuleList(copy.deepcopy(pl_module.ema) for _ in self.decays)
        for average, state in zip(self.averages, self._loaded or [], strict=False):
            average.load_state_dict(state)
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object
    ) -> None:
        """One step of each average behind every step of the optimizer."""
        if trainer.global_step == self._step:
            return
        for decay, average in zip(self.decays, self.averages, strict=True):
            now = average_decay(decay, self._step, pl_module.ema_rule)
            update_average(average, pl_module.net, now)
        self._step = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A file for each, which backbone.checkpoint= takes."""
        for decay, average in zip(self.decays, self.averages, strict=True):
            if trainer.is_global_zero:
                net, facts = pl_module.exported(average)
                record = {"ema_decay": f"{decay:g}", "step": str(trainer.global_step)}
                path = Path(trainer.default_root_dir) / f"ema_{decay:g}.safetensors"
                export_weights(net, path, facts | record)

    def state_dict(self) -> dict[str, list]:
        """The averages, so that a resumed run goes on exactly."""
        states = [dict(average.state_dict()) for average in self.averages]
        return {"decays": self.decays, "averages": states} if self.decays else {}

    def load_state_dict(self, state_dict: dict[str, list]) -> None:
        """Those of the same decays."""
        if state_dict and state_dict["decays"] != self.decays:
            raise UserError(
                f"The run was learned with callbacks.averages.decays={state_dict['decays']}, here "
                f"they are {self.decays}: resume with the former, or start anew without ckpt_path="
            )
        self._loaded = state_dict.get("averages")
