"""Pictures and labels in."""
