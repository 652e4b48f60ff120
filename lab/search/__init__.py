"""Modules of lab/retrieval.py: vectors, HTTP load generator, arms, report."""
