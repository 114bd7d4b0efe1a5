"""Networks that diffusers has saved in a folder, with what they are fed and told beside them."""

from diffdict.backbones.hub.backbone import Hub
from diffdict.backbones.hub.taps import picture_stream

__all__ = ["Hub", "picture_stream"]
