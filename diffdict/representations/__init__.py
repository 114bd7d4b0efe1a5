"""What a picture is to a network: one vector, for all that asks about whole pictures."""
