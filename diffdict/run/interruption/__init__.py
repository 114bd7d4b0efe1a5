"""What lets a run be stopped at any moment and go on as if it never was."""
