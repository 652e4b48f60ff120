"""Layouts of the weights: a default per CPU, used at start, and a command that measures which layout is fastest."""
