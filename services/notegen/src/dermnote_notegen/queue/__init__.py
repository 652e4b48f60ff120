"""The queue on Redis: note records, RQ jobs, and the one place that connects to Redis."""
