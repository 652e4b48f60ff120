"""The engine process: owns the language model and serves completions on a Unix socket. Independent of notes."""
