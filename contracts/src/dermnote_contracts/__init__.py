"""Models and errors that cross a process border in Dermnote. Knows pydantic and nothing of any service."""

__version__ = "0.1.0"
