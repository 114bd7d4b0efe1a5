"""`task=simsiam`: an encoder learns to predict one view of a picture from another (SimSiam).

The code of `backbone=code_encoder` with no diffusion in it: a row beside PDAE and DiTi.
"""

from diffdict.backbones.autoencoders.code_backbone import CodeBackbone
from diffdict.classifiers.views.simsiam_heads import SimsiamHeads
from diffdict.training.views.two_views import TwoViewTraining


class Simsiam(TwoViewTraining):
    """A cosine without negatives (Chen & He 2021), as DiTi's authors train it."""

    word = "simsiam"

    def __init__(
        self, encoder: CodeBackbone, *, batch_size: int = 2, hidden: int = 128, **training: object
    ) -> None:
        """`hidden`: of the predictor; `batch_size` is what the data says."""
        heads = SimsiamHeads(encoder.shapes["code"][0], hidden)
        heads.check_batch(batch_size, "the batch norm of SimSiam's heads compares pictures")
        super().__init__(encoder, heads, **training)
