"""Shared by all HTTP services of Dermnote: app factory, errors, authentication, limits, logging, settings."""
