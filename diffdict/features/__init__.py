"""What a backbone saw, kept or streamed."""
