"""Pydantic models, vocabularies and errors that services and clients exchange. Depends on pydantic alone."""

__version__ = "0.1.0"
"""The version of every Dermnote package, container image and API."""
