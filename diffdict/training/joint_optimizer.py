"""Several optimizers that take their steps together: one of an encoder, another of its heads."""

from collections.abc import Callable

import torch
from torch import Tensor


class JointOptimizer(torch.optim.Optimizer):
    """Looks like one optimizer, with the parameter groups of all; `group_counts` says whose."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers
        super().__init__([group for one in optimizers for group in one.param_groups], {})
        self._share_groups()

    def _share_groups(self) -> None:
        """Rates are set in the groups that the optimizers themselves read."""
        self.param_groups = [group for one in self.optimizers for group in one.param_groups]
        for one in self.optimizers:
            self.state.update(one.state)

    @property
    def group_counts(self) -> list[int]:
        """How many groups are of each optimizer, in their order."""
        return [len(one.param_groups) for one in self.optimizers]

    def step(self, closure: Callable[[], float] | None = None) -> Tensor | float | None:
        """A step of each, after one pass."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for one in self.optimizers:
            one.step()
        return loss

    def state_dict(self) -> dict[str, list[dict]]:
        """What each of them holds."""
        return {"optimizers": [one.state_dict() for one in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, list[dict]]) -> None:
        """Into each of them what it held."""
        for one, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            one.load_state_dict(state)
        self._share_groups()
