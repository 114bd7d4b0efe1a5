"""diffdict: dictionaries of visual concepts from what a diffusion model sees."""

__version__ = "0.1.0"
