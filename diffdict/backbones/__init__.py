"""Networks: pictures in, named block features out; a file for each, rooms for their parts."""
