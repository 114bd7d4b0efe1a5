"""What networks lose on changed pictures, and how much of a loss a code makes good."""
