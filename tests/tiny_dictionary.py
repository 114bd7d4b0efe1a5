"""An export of a dictionary of pixels: twelve latents that see colours and places."""

from functools import partial
from pathlib import Path

from diffdict.backbones.pixels import Pixels
from diffdict.data.toy_faces import ToyFaces
from diffdict.features.tokens import TokenDataModule
from diffdict.sae import saelens
from diffdict.sae.topk import TopK

LATENTS = 12
PIXELS = {"_target_": "diffdict.backbones.pixels.Pixels", "name": "pixels", "image_size": 16}


def pixel_dictionary(path: Path, **asked) -> str:
    """At `path`, never trained; `asked` goes onto its card."""
    data = TokenDataModule(
        dataset=partial(ToyFaces, image_size=16, train_pictures=3),
        backbone=Pixels(16),
        source="live",
        dtype="fp32",
        val_pictures=0,
        timestep=None,
        block="pixels",
    )
    data.prepare_data()
    facts = data.facts
    sae = TopK(facts["d_in"], facts["mean"], facts["scale"], latents=LATENTS, k=3).eval()
    plain = {key: value for key, value in facts.items() if key not in ("mean", "scale")}
    card = {**plain, "backbone": PIXELS, "timestep": None, "block": "pixels", **asked}
    saelens.export(sae, path, card)
    return str(path)
