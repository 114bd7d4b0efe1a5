"""Bilinear upsampling without upsampled maps: the formula, pixels on demand, cells of pixels."""
