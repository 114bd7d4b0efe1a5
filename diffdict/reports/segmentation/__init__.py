"""What a segmenter says of pictures, and where it is wrong."""
