"""Codes of pictures: the parts that tables are made of, and maps through a dictionary, pooled."""
