"""The key file: names of API keys, the SHA-256 of each key (never the key itself) and its limit per minute.

One line per key: `name sha256hex [units_per_minute]`; blank lines and lines that begin with # are comments. Keys are
256 random bits, so a plain hash suffices. Command: `python -m dermnote_http.keys add|remove|list FILE`.
"""

import argparse
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)
PREFIX = "dn_"
MAX_PER_MINUTE = 100_000
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
NAME_RULE = "the name must have 1 to 64 letters, digits, dots, dashes or underscores"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]{1,6}")


class KeysInvalid(Exception):
    """The key file can't be used. Names the file and the line, never their content."""


@dataclass(frozen=True)
class Key:
    """One entry: the key's name, its hash, and its units per minute (None: no limit)."""

    name: str
    sha256: str
    per_minute: int | None = None

    def line(self) -> str:
        """The entry as a line of the file, without the line end."""
        limit = () if self.per_minute is None else (str(self.per_minute),)
        return " ".join((self.name, self.sha256, *limit))


def new_key() -> str:
    """A new random key."""
    return PREFIX + secrets.token_urlsafe(32)


def hashed(token: bytes) -> str:
    """The hash that the file stores for a key."""
    return hashlib.sha256(token).hexdigest()


def parse_keys(text: str, *, source: str) -> tuple[Key, ...]:
    """The keys in a file's text. Raises KeysInvalid with `source`, the file's name, and the line number."""
    keys: list[Key] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if _is_comment(line):
            continue
        try:
            key = _parse_key(line)
        except ValueError as error:
            raise KeysInvalid(f"{source}, line {number}: {error}") from None
        if any(key.name == other.name or key.sha256 == other.sha256 for other in keys):
            raise KeysInvalid(f"{source}, line {number}: repeats the name or the key of an earlier line")
        keys.append(key)
    return tuple(keys)


def _is_comment(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _parse_key(line: str) -> Key:
    name, digest, limit, *more = (*line.split(), "", "", "")
    if any(more):
        raise ValueError("has more than a name, a SHA-256 and a limit")
    if not _NAME.fullmatch(name):
        raise ValueError(NAME_RULE)
    if not _SHA256.fullmatch(digest):
        raise ValueError("the second word must be a SHA-256 in 64 lower-case hexadecimal digits")
    if limit and not (_NUMBER.fullmatch(limit) and 1 <= int(limit) <= MAX_PER_MINUTE):
        raise ValueError(f"the limit must be a number from 1 to {MAX_PER_MINUTE}")
    return Key(name, digest, int(limit) if limit else None)


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in a file. Raises KeysInvalid."""
    return parse_keys(_read(path), source=str(path))


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise KeysInvalid(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise KeysInvalid(f"{path}: not UTF-8 text") from None


class KeyFile:
    """The current keys. The file is read again whenever it changes, so that a removed key is revoked at once.

    If the file becomes invalid or unreadable, the last valid keys stay in force and one error is logged. The
    constructor raises KeysInvalid, also for a file without a key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = _file_version(path)
        self._keys = read_keys(path)
        self._logged = ""
        if not self._keys:
            raise KeysInvalid(f"{path}: contains no key; create one with `python -m dermnote_http.keys add`")

    def find(self, token: bytes) -> Key | None:
        """The entry of a key, or None. Takes the same time for every entry."""
        self._refresh()
        digest, found = hashed(token), None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def _refresh(self) -> None:
        version = _file_version(self._path)
        if version is not None and version == self._version:
            return
        try:
            self._keys = read_keys(self._path)
        except KeysInvalid as error:
            if str(error) != self._logged:
                log.error("%s; the last valid keys stay in force", error)  # noqa: TRY400 (no trace)
            self._logged = str(error)
        else:
            self._version, self._logged = version, ""


def _file_version(path: Path) -> tuple[int, ...] | None:
    """A value that changes when the file is written, replaced or made readable; None if the file is inaccessible."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def add_key(path: Path, name: str, *, per_minute: int | None = None) -> str:
    """Add a new key to the file, which is created if it is missing, and return the key. Raises KeysInvalid."""
    if not _NAME.fullmatch(name):
        raise KeysInvalid(f"{path}: {name!r} cannot be added: {NAME_RULE}")
    token = new_key()
    line = Key(name, hashed(token.encode()), per_minute).line()

    def add(text: str) -> str:
        parse_keys(text, source=str(path))
        extended = f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{line}\n"
        parse_keys(extended, source=f"{path} with {name!r}")
        return extended

    _edit(path, add)
    return token


def remove_key(path: Path, name: str) -> None:
    """Remove a key from the file. Raises KeysInvalid, also for an unknown name."""

    def remove(text: str) -> str:
        if name not in {key.name for key in parse_keys(text, source=str(path))}:
            raise KeysInvalid(f"{path}: no key is named {name!r}")
        return "\n".join(line for line in text.split("\n") if _is_comment(line) or line.split()[0] != name)

    _edit(path, remove)


def _edit(path: Path, change: Callable[[str], str]) -> None:
    """Replace the file's text atomically, one editor at a time. A new file has mode 0600."""
    path = path.resolve()
    with _locked(path.parent):
        status = path.stat() if path.exists() else None
        text = change("" if status is None else _read(path))
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                if status is not None:
                    os.fchmod(file.fileno(), status.st_mode & 0o777)
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink()
            raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder of the file; a separate lock file would be left behind next to the keys."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. A new key is printed once, on stdout; errors are one line on stderr and exit code 1."""
    options = _parse(arguments)
    try:
        if options.command == "add":
            print(add_key(options.file, options.name, per_minute=options.per_minute))
        elif options.command == "remove":
            remove_key(options.file, options.name)
        else:
            for key in read_keys(options.file):
                print(key.name, "no limit" if key.per_minute is None else f"{key.per_minute} per minute", sep="\t")
    except (KeysInvalid, OSError) as error:
        sys.exit(f"keys: {error}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dermnote_http.keys", description="Manage a service's API keys")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="create a key, store its hash and print the key once")
    remove = commands.add_parser("remove", help="revoke a key")
    for command in (add, remove, commands.add_parser("list", help="list names and limits")):
        command.add_argument("file", type=Path, metavar="FILE")
    for command in (add, remove):
        command.add_argument("name", metavar="NAME", help="name of the key's owner")
    add.add_argument("--per-minute", type=int, metavar="N", help="units that the key may use per minute")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
