"""Samples as a set: the folder in which they lie, and what they keep of their sources."""
