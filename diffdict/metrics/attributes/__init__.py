"""Attributes of pictures: how well they are told, read off vectors by ridge, kept by samples."""

from diffdict.metrics.attributes.attribute_reader import (
    RIDGES,
    AttributeReader,
    KeptAttributes,
    attribute_accuracy,
    fit_reader,
    kept_attributes,
)

__all__ = [
    "RIDGES",
    "AttributeReader",
    "KeptAttributes",
    "attribute_accuracy",
    "fit_reader",
    "kept_attributes",
]
