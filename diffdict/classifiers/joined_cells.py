"""Several cells as one: a linear head sees the vectors of all of them, one behind the other."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.errors import UserError, first_few
from diffdict.features.store.shards import Stream

JOINED = "joined"  # where others name their block


class JoinedCells:
    """Cells of a probe, by their names or all of them."""

    def __init__(self, cells: Sequence[Stream], names: str | Sequence[str]) -> None:
        """`names`: t0011-b06 and so on, or `all`."""
        every = [cell.name for cell in cells]
        subset = every if names == "all" else [names] if isinstance(names, str) else list(names)
        if absent := [name for name in subset if name not in every]:
            raise UserError(
                f"model.joined names {absent[0]}, and the probe looks at {first_few(every)}: "
                "choose of these, model.joined=all, or say more timestep= and block="
            )
        if len(set(subset)) < 2:
            raise UserError(
                f"model.joined puts two cells or more together, got {first_few(subset) or 'none'}: "
                "model.joined=all, with several in timestep= or block="
            )
        self.members = [place for place, name in enumerate(every) if name in subset]
        self.names = [every[place] for place in self.members]
        channels = sum(cells[place].channels for place in self.members)
        self.cell = Stream(channels, 1, 1, "fp32", None, JOINED)

    def vectors(self, every: Sequence[Float[Tensor, "batch _"]]) -> Float[Tensor, "batch _"]:
        """Those of its cells as one."""
        return torch.cat([every[place] for place in self.members], dim=1)
