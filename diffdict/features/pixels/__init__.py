"""Labelled pixels of pictures, for segmenters: gathered from maps, or from a dictionary's codes."""

from diffdict.features.pixels.data_module import PixelDataModule

__all__ = ["PixelDataModule"]
