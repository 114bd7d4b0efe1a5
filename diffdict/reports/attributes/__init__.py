"""What reports show of attributes of pictures."""
