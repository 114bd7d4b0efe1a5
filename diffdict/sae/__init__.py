"""Dictionaries in plain torch: one class a variant."""
