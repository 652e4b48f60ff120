"""The layout of the weights: a default per CPU at start, and a command that measures which one is fastest."""
