"""Chains of pictures: into noise and back, with and without a change, between two pictures."""
