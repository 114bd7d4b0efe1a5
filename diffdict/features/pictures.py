"""The name that configs of 0.1 hold: `ExtractionPictures` is in extraction/pictures.py."""

from diffdict.features.extraction.pictures import ExtractionPictures

__all__ = ["ExtractionPictures"]
