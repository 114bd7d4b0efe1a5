"""Pictures that a network draws, while it learns and afterwards."""
