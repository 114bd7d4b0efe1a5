"""What a linear head learns of whole pictures: their class, what is in them, or attributes."""
