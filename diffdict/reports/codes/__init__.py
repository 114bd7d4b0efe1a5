"""Sheets of what a code holds: pictures drawn again with some of it changed."""
