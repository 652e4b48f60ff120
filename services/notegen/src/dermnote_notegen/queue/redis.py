"""The only module that connects to Redis: by URL, and with the password from REDIS_PASSWORD_FILE if it is set."""

from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from dermnote_contracts.problems import StartRefused
from dermnote_notegen.settings import Settings


class PasswordUnreadable(StartRefused):
    """REDIS_PASSWORD_FILE can't be read or is empty. The message never contains the file's content."""


def connect(settings: Settings, **options: Any) -> Redis:
    """Create a client that connects lazily. `options` are passed to redis-py. Raises StartRefused.

    A password in the URL overrides the one in the file.
    """
    path = settings.redis_password_file
    if path is not None:
        try:
            password = path.read_text().strip()
        except OSError as error:
            raise PasswordUnreadable(f"REDIS_PASSWORD_FILE: {path} can't be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise PasswordUnreadable(f"REDIS_PASSWORD_FILE: {path} can't be read: it is not UTF-8") from error
        if not password:
            raise PasswordUnreadable(f"REDIS_PASSWORD_FILE: {path} is empty")
        options["password"] = password
    try:
        redis = Redis.from_url(settings.redis_url, **options)
        pool = redis.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # checks the URL's options, and does not connect yet
    except (ValueError, TypeError, RedisError) as error:
        raise StartRefused(
            "REDIS_URL is invalid; use redis://HOST:PORT/DATABASE, rediss:// or unix://PATH, and redis-py's options"
        ) from error
    return redis
