"""`task=latents`: what a network's autoencoder makes of pictures; FeatureWriter stores it."""

from diffdict.backbones.autoencoders.latent_maps import BLOCK, LatentMaps
from diffdict.backbones.base import Backbone
from diffdict.features.noise import Noise
from diffdict.tasks.features import Features


class Latents(Features):
    """One pass of the autoencoder a picture; the network itself does not run."""

    def __init__(self, net: Backbone, compute: str = "fp32") -> None:
        """`net`: whose autoencoder it is."""
        super().__init__(LatentMaps(net), None, BLOCK, Noise(), compute)
