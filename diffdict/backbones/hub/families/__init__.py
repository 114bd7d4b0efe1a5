"""One file for each class of diffusers' networks, and what all of them share."""
