"""Encoders, which map images and texts to unit vectors. Each heavy library is imported by one file only."""
