"""The one place that opens Redis: its URL, and its password from a file where one is named."""

from typing import Any

from redis import Redis

from dermnote_contracts.problems import StartRefused
from dermnote_notegen.settings import Settings


class PasswordUnreadable(StartRefused):
    """REDIS_PASSWORD_FILE can't be read, or holds nothing. The message never has what is in it."""


def connect(settings: Settings, **options: Any) -> Redis:
    """A connection, made lazily. `options` are redis-py's own. A password in the URL goes before the file's.

    Raises PasswordUnreadable.
    """
    path = settings.redis_password_file
    if path is not None:
        try:
            password = path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise PasswordUnreadable(f"REDIS_PASSWORD_FILE: {path} can't be read: {_reason(error)}") from error
        if not password:
            raise PasswordUnreadable(f"REDIS_PASSWORD_FILE: {path} is empty")
        options["password"] = password
    return Redis.from_url(settings.redis_url, **options)


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "it is no UTF-8"
