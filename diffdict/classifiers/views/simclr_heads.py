"""SimCLR's projector, and its loss of the codes of two views."""

from jaxtyping import Float
from torch import Tensor, nn

from diffdict.errors import UserError, at_least
from diffdict.training.views.view_heads import ViewHeads
from diffdict.training.views.view_losses import nt_xent


class SimclrHeads(ViewHeads):
    """Each view is told from those of all other pictures of the batch (Chen et al. 2020)."""

    def __init__(
        self, code: int, hidden: int = 512, width: int = 256, temperature: int | float = 0.5
    ) -> None:
        """`width`: where pictures are compared."""
        super().__init__()
        at_least(1, "model", hidden=hidden, width=width)
        if not temperature > 0:
            raise UserError(f"model.temperature is above 0, got {temperature}: 0.5")
        self.projector = nn.Sequential()
        self.projector.add_module("layer1", nn.Sequential(nn.Linear(code, hidden), nn.ReLU()))
        self.projector.add_module("layer2", nn.Linear(hidden, width))
        self.temperature = temperature

    def project(self, codes: Float[Tensor, "n code"]) -> Float[Tensor, "n width"]:
        """Where pictures are compared."""
        return self.projector(codes)

    def forward(
        self, first: Float[Tensor, "n code"], second: Float[Tensor, "n code"]
    ) -> Float[Tensor, ""]:
        """NT-Xent over the pictures of this rank, as published."""
        return nt_xent(self.project(first), self.project(second), self.temperature)
