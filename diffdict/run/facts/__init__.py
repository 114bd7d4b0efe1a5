"""What a run takes over of what it studies: a dictionary's facts, a network's representation."""
