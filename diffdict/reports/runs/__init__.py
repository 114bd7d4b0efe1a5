"""What runs have found, and runs side by side."""
