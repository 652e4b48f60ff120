"""Errors that a person can mend."""


class UserError(Exception):
    """One line that says what is wrong, where, and what to do. The command line prints it and exits 1."""
