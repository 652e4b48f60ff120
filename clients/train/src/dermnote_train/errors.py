"""Errors that the user can fix."""


class UserError(Exception):
    """A one-line message: what is wrong, where, and the next step. The command line prints it and exits with 1."""
