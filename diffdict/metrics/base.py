"""What our metrics share: states that only sum, whose numbers keep their precision."""

from collections.abc import Callable

from torch import Tensor
from torchmetrics import Metric


class ExactMetric(Metric):
    """Moves with its module, but its states keep their dtype in a half-precision one."""

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: str = "") -> "ExactMetric":
        return super()._apply(lambda x: x.to(fn(x).device), exclude_state)
