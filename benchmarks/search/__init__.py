"""The parts of benchmarks/retrieval.py: vectors, load over HTTP, the arms, the report."""
