"""What drawn samples are worth as a set."""
