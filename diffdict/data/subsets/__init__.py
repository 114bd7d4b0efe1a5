"""Some of a set's labelled pictures: a share of them, or those whose labels are certain."""
