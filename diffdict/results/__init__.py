"""What a run leaves on disk: its record and tables, its dictionary, weights and classifiers."""
