"""Runs side by side, for reports that compare them."""
