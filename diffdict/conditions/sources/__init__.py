"""What conditions are made of: pictures at any size, chosen ones; rows of samples, and sheets."""
