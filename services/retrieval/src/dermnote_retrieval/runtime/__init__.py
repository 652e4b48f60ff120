"""The process: batching, threads, metrics and shutdown. Independent of items and vectors."""
