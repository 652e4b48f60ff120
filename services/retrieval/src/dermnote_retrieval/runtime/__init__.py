"""How the process runs: batching, threads, metrics and shutdown. Independent of items and vectors."""
