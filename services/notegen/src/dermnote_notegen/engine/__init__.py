"""The engine process: owns the language model and answers completions on a Unix socket. Independent of notes."""
