"""`task=simclr`: an encoder learns to tell each picture from all others in two views (SimCLR).

The code of `backbone=code_encoder` with no diffusion in it: a row beside PDAE and DiTi.
"""

from diffdict.backbones.autoencoders.code_backbone import CodeBackbone
from diffdict.classifiers.views.simclr_heads import SimclrHeads
from diffdict.training.views.two_views import TwoViewTraining


class Simclr(TwoViewTraining):
    """NT-Xent of two views (Chen et al. 2020), as DiTi's authors train it."""

    word = "simclr"

    def __init__(
        self,
        encoder: CodeBackbone,
        *,
        batch_size: int = 2,
        hidden: int = 512,
        width: int = 256,
        temperature: int | float = 0.5,
        **training: object,
    ) -> None:
        """`hidden` and `width` of the projector; `batch_size` is what the data says."""
        heads = SimclrHeads(encoder.shapes["code"][0], hidden, width, temperature)
        heads.check_batch(batch_size, "SimCLR tells a picture's views from those of other pictures")
        super().__init__(encoder, heads, **training)
