"""Pictures and labels in: a file for each set or module of batches, rooms for their parts."""
