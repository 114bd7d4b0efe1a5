"""Shuffled tokens of a stream, for dictionaries and for whatever learns from single tokens."""

from diffdict.features.tokens.data_module import TokenDataModule

__all__ = ["TokenDataModule"]
