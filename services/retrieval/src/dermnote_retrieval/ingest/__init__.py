"""Writes: validating, encoding and storing items."""
