"""Errors that only this service meets; all others are in dermnote_contracts.problems."""

from dermnote_contracts.problems import DermnoteError


class StartRefused(DermnoteError):
    """The service cannot start; the detail says what is wrong and what to do."""

    code, status, title = "start-refused", 503, "The retrieval service cannot start"
