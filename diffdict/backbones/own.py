"""The name that checkpoints of 0.1 hold: `Own` is `CustomBackbone` of wrapper.py."""

from diffdict.backbones.wrapper import CustomBackbone as Own

__all__ = ["Own"]
