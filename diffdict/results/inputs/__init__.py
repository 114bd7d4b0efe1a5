"""What later runs take from disk: latents, directions, noise, statistics, weights."""
