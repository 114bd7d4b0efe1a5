"""Files that sets of pictures lie in: arrays, attributes, samples, and what others published."""
