"""Models and errors that cross a process boundary in Dermnote. Depends on pydantic only."""

__version__ = "0.1.0"
