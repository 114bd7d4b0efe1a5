"""What samples are drawn from beside noise: rows of vectors, one a sample."""
