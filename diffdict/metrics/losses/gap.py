"""How much of a frozen network's gap a code fills: losses by timestep, and what share is filled."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

PICTURES, LOSS, FROZEN, PAIRED, EXCHANGED = range(5)  # rows of the sums


class GapSums:
    """Sums by timestep: pictures, losses with their codes, and losses of the frozen network alone.

    Where codes were exchanged between pictures, also the losses with another one's code, and those
    of the frozen network on the same pictures.
    """

    def __init__(self, steps: int, device: torch.device | str = "cpu") -> None:
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self.sums = torch.zeros(5, steps, dtype=dtype, device=device)

    def add(
        self,
        t: Int[Tensor, " batch"],
        losses: Float[Tensor, " batch"],
        frozen: Float[Tensor, " batch"],
        exchanged: Float[Tensor, " batch"] | None = None,
    ) -> None:
        """One batch at positions t; everything stays on the device."""
        rows = [torch.ones_like(losses), losses, frozen]
        rows += [] if exchanged is None else [frozen, exchanged]
        values = torch.stack([row.detach().to(self.sums.dtype) for row in rows])
        self.sums[: len(rows)].index_add_(1, t, values)

    def shares(self, places: Mapping[str, Bool[Tensor, " steps"]]) -> dict[str, float]:
        """The share filled at each of these places; of exchanged codes where there were any."""
        filled = {}
        sums = self.sums.cpu()
        for name, steps in places.items():
            at = sums[:, steps].sum(1).tolist()
            for kind, loss, base in (
                ("gap_filled", at[LOSS], at[FROZEN]),
                ("gap_filled_exchanged", at[EXCHANGED], at[PAIRED]),
            ):
                if base > 0:
                    filled[f"{kind}{name}"] = 1 - loss / base
        return filled

    def loss(self) -> float:
        """The mean loss of all pictures; 0 of none."""
        at = self.sums.sum(1).tolist()
        return at[LOSS] / max(1, at[PICTURES])


def gap_places(steps: int, stages: tuple[int, ...] | None) -> dict[str, Bool[Tensor, " steps"]]:
    """All timesteps, each quarter of them, and each stage where there are any."""
    t = torch.arange(steps)
    places = {"": t >= 0} | {f"_q{q + 1}": t * 4 // steps == q for q in range(4)}
    begin = 0
    for number, end in enumerate(stages or ()):
        places[f"_stage{number}"] = (t >= begin) & (t < end)
        begin = end
    return places


def timestep_rows(
    sums: Mapping[str, Float64[Tensor, "5 steps"]],
) -> list[dict[str, int | float | None]]:
    """A row a timestep: pictures, losses and share filled in each split that has met it."""
    steps = next(iter(sums.values())).shape[1]
    columns = {split: values.tolist() for split, values in sums.items()}
    rows = []
    for t in range(steps):
        row: dict[str, int | float | None] = {"timestep": t}
        for split, values in columns.items():
            count = values[PICTURES][t]
            losses = [values[LOSS][t] / count, values[FROZEN][t] / count] if count else [None] * 2
            filled = 1 - losses[0] / losses[1] if count and losses[1] > 0 else None
            names = "pictures", "loss", "loss_frozen", "gap_filled"
            cells = int(count), *losses, filled
            row |= {f"{split}_{name}": cell for name, cell in zip(names, cells, strict=True)}
        rows.append(row)
    return rows
