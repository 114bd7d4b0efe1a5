"""What a training leaves for others to load."""
