"""What an encoder of two views learns by: heads above its codes, and their loss."""

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from diffdict.errors import UserError


class ViewHeads(nn.Module):
    """Networks above the codes, which learn beside the encoder and are not handed on."""

    least_pictures = 2  # of a batch

    @abstractmethod
    def project(self, codes: Float[Tensor, "n code"]) -> Float[Tensor, "n width"]:
        """Where pictures are compared."""

    @abstractmethod
    def forward(
        self, first: Float[Tensor, "n code"], second: Float[Tensor, "n code"]
    ) -> Float[Tensor, ""]:
        """The loss of the codes of two views of the same pictures."""

    def check_batch(self, batch_size: int, reason: str) -> None:
        """A batch of one picture teaches nothing, or fails."""
        if batch_size < self.least_pictures:
            raise UserError(
                f"data.batch_size is at least {self.least_pictures} here, got {batch_size}: "
                f"{reason}. data.batch_size=128"
            )
