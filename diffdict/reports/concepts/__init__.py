"""A dictionary's latents: where they are active, and which class each is."""
