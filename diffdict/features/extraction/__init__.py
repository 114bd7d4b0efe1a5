"""Extraction: the pictures of a split in, shards of what a network saw in them out."""
