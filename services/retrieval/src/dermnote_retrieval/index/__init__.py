"""Vectors in memory, searched. Derived from the store and never its equal: it knows numbers and vectors only."""
