"""Networks: pictures in, named block features out."""
