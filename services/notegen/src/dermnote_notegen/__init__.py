"""The note service: API, workers and engine, three processes that meet only over Redis and a socket."""
