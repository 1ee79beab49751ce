"""Experiments that show what the library does, and what it does not."""
