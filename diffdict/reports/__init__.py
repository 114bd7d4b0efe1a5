"""What a person looks at: a file for each word of report= and logger=, in rooms their parts."""
