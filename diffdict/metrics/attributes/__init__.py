"""Attributes of pictures: how well they are told, read off vectors by ridge, kept by samples."""

from diffdict.metrics.attributes.attribute_reader import (
    AttributeReader,
    KeptAttributes,
    attribute_accuracy,
    kept_attributes,
)

__all__ = ["AttributeReader", "KeptAttributes", "attribute_accuracy", "kept_attributes"]
