"""Models, vocabularies and errors that cross a process boundary. Depends on pydantic alone."""

__version__ = "0.1.0"
"""The version of every Dermnote package, image and API."""
