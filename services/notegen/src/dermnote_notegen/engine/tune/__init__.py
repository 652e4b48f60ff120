"""Choosing the fastest weight layout for this CPU."""
