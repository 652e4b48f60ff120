"""Writes: items validated, encoded and stored."""
