"""The training client of Dermnote. Talks to the services over HTTP only."""

__version__ = "0.1.0"
