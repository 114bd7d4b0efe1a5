"""What features are like, before and beside a dictionary."""
