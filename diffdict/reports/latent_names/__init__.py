"""Names for latents: crops to name them by, held-out crops to judge a name by, and who does it."""
