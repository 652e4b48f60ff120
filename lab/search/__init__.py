"""The parts of lab/retrieval.py: vectors, load over HTTP, the arms, the report."""
