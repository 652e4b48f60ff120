"""Training client of Dermnote; uses the services over HTTP only."""

__version__ = "0.1.0"
