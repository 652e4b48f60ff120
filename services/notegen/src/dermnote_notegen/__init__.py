"""The note service: API, worker and engine processes, which communicate only over Redis and a socket."""
