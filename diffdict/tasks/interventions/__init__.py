"""Changes of networks while they draw: what is changed, its controls, chains, and who judges."""
