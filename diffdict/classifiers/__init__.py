"""Networks that tasks train to say what is in a picture or a pixel."""
