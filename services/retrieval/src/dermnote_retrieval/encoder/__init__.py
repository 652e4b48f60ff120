"""Encoders: images and texts to unit vectors. Each heavy library stays in one file here."""
