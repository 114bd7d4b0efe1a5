"""Heads above an encoder that learns from two views of a picture."""
