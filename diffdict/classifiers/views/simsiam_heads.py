"""SimSiam's projector and predictor, and its loss of the codes of two views."""

from jaxtyping import Float
from torch import Tensor, nn

from diffdict.errors import at_least
from diffdict.training.views.view_heads import ViewHeads
from diffdict.training.views.view_losses import negative_cosine


class SimsiamHeads(ViewHeads):
    """Each view predicts the other, which stands still; no negatives (Chen & He 2021)."""

    def __init__(self, code: int, hidden: int = 128) -> None:
        """All are as wide as the code but the predictor's middle."""
        super().__init__()
        at_least(1, "model", hidden=hidden)
        self.projector = nn.Sequential()
        for i in (1, 2, 3):
            layer = nn.Sequential(nn.Linear(code, code), nn.BatchNorm1d(code))
            if i < 3:
                layer.append(nn.ReLU())
            self.projector.add_module(f"layer{i}", layer)
        self.predictor = nn.Sequential()
        first = nn.Sequential(nn.Linear(code, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
        self.predictor.add_module("layer1", first)
        self.predictor.add_module("layer2", nn.Linear(hidden, code))

    def project(self, codes: Float[Tensor, "n code"]) -> Float[Tensor, "n width"]:
        """Where pictures are compared."""
        return self.projector(codes)

    def forward(
        self, first: Float[Tensor, "n code"], second: Float[Tensor, "n code"]
    ) -> Float[Tensor, ""]:
        """Both ways, by half each; every batch norm sees one view at a time."""
        a, b = self.project(first), self.project(second)
        ways = negative_cosine(self.predictor(a), b) + negative_cosine(self.predictor(b), a)
        return ways / 2
