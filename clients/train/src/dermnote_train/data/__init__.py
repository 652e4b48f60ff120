"""Lesion data sets: reading, drawing, splitting and leakage checks."""
