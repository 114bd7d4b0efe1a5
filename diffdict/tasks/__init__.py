"""LightningModules, one thing a file."""
