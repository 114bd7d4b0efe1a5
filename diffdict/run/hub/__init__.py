"""Dictionaries and features to and from the Hugging Face hub, each with its page."""
