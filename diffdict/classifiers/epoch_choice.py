"""The epoch whose heads are kept: the best on pictures held out; and what the test would choose."""

from copy import deepcopy

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from diffdict.classifiers.linear import LinearHeads

EPOCHS = ("last", "best")


class EpochChoice(nn.Module):
    """Of every cell and rate the head of its best epoch; all of it travels in checkpoints."""

    def __init__(self, heads: LinearHeads, cells: int, rates: int) -> None:
        super().__init__()
        self.heads = deepcopy(heads).requires_grad_(False)
        for name in ("held_out", "test"):
            nothing = torch.full((cells, rates), torch.nan, dtype=torch.float64)
            self.register_buffer(name, nothing)
            self.register_buffer(f"{name}_epoch", torch.zeros(cells, rates, dtype=torch.int64))

    @torch.no_grad()
    def offer(
        self, heads: LinearHeads, figures: Float64[Tensor, "cells rates"], epoch: int
    ) -> None:
        """Keeps the heads that pictures held out are told better by than by any before."""
        better = self._better("held_out", figures, epoch)
        for rate, (ours, theirs) in enumerate(zip(self.heads.own, heads.own, strict=True)):
            for width, cells in heads.cells.items():
                for member, cell in enumerate(cells):
                    if better[cell, rate]:
                        for key, value in theirs[str(width)].named_parameters():
                            getattr(ours[str(width)], key)[member] = value[member]

    def see_test(self, figures: Float64[Tensor, "cells rates"], epoch: int) -> None:
        """What a choice by the test pictures would report: told, never used."""
        self._better("test", figures, epoch)

    def _better(self, name: str, figures: Tensor, epoch: int) -> Tensor:
        best, at = getattr(self, name), getattr(self, f"{name}_epoch")
        better = figures > best.nan_to_num(-torch.inf)
        best[better], at[better] = figures[better], epoch
        return better

    def row(self, cell: int, rate: int) -> dict[str, int | float]:
        """For a table: which epoch was kept, and the best of the test if it was looked at."""
        row: dict[str, int | float] = {"epoch": int(self.held_out_epoch[cell, rate])}
        if not self.test[cell, rate].isnan():
            row["best_test_epoch"] = int(self.test_epoch[cell, rate])
            row["best_test_figure"] = float(self.test[cell, rate])
        return row
