"""Writes: uploaded items, checked, encoded and stored."""
