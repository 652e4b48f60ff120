"""The key file: who may ask and how much a minute, with the SHA-256 of each key and never the key itself.

One line a key: `name sha256hex [units_per_minute]`; blank lines and lines that begin with # say nothing. A key is 256
random bits, so a plain hash keeps it. The command is `python -m dermnote_http.keys add|remove|list FILE`.
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
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]{1,6}")


class KeysInvalid(Exception):
    """A key file that can't be used: names the file and the line, never what stands there."""


@dataclass(frozen=True)
class Key:
    """One entry. `name`: whose key it is; `per_minute`: units that it may use, or None for no limit."""

    name: str
    sha256: str
    per_minute: int | None = None

    def line(self) -> str:
        """The entry as a line of the file, without its end."""
        limit = () if self.per_minute is None else (str(self.per_minute),)
        return " ".join((self.name, self.sha256, *limit))


def new_key() -> str:
    """A key that nobody has yet."""
    return PREFIX + secrets.token_urlsafe(32)


def hashed(token: bytes) -> str:
    """What the file holds of a key."""
    return hashlib.sha256(token).hexdigest()


def parse_keys(text: str, *, source: str) -> tuple[Key, ...]:
    """The keys of a file's text. Raises KeysInvalid with the number of the line; `source` is what it calls the file."""
    keys: list[Key] = []
    for number, line in _entries(text):
        try:
            key = _key(line)
        except ValueError as wrong:
            raise KeysInvalid(f"{source}, line {number}: {wrong}") from None
        if any(key.name == other.name or key.sha256 == other.sha256 for other in keys):
            raise KeysInvalid(f"{source}, line {number}: the name or the key of an earlier line again")
        keys.append(key)
    return tuple(keys)


def _entries(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line


def _key(line: str) -> Key:
    name, digest, limit, *more = (*line.split(), "", "", "")
    if any(more):
        raise ValueError("more than a name, a SHA-256 and a limit")
    if not _NAME.fullmatch(name):
        raise ValueError("the name is not 1 to 64 letters, digits, dots, dashes and underscores")
    if not _SHA256.fullmatch(digest):
        raise ValueError("the second word is no SHA-256 in 64 lower-case hexadecimal digits")
    if limit and not (_NUMBER.fullmatch(limit) and 1 <= int(limit) <= MAX_PER_MINUTE):
        raise ValueError(f"the limit is not a number from 1 to {MAX_PER_MINUTE}")
    return Key(name, digest, int(limit) if limit else None)


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file; raises KeysInvalid."""
    return parse_keys(_read(path), source=str(path))


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as wrong:
        raise KeysInvalid(f"{path}: cannot be read ({wrong.strerror})") from wrong
    except UnicodeDecodeError:
        raise KeysInvalid(f"{path}: not UTF-8 text") from None


class KeyFile:
    """The keys as the file has them now: it is read again when it has changed, so that a key is revoked at once.

    A file that has become invalid or unreadable leaves the keys as they were; that is logged once. Raises KeysInvalid
    when the file has no key at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._keys = read_keys(path)
        self._complaint = ""
        if not self._keys:
            raise KeysInvalid(f"{path}: holds no key; `python -m dermnote_http.keys add` makes one")

    def find(self, token: bytes) -> Key | None:
        """The entry of a key, or None. Takes as long whichever entry it is."""
        self._refresh()
        digest, found = hashed(token), None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def _refresh(self) -> None:
        stamp = _stamp(self._path)
        if stamp is not None and stamp == self._stamp:
            return
        try:
            self._keys = read_keys(self._path)
        except KeysInvalid as invalid:
            if str(invalid) != self._complaint:
                log.error("%s; the keys that were read before stay as they are", invalid)  # noqa: TRY400 (no trace)
            self._complaint = str(invalid)
        else:
            self._stamp, self._complaint = stamp, ""


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is written, replaced, or made readable."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def add_key(path: Path, name: str, *, per_minute: int | None = None) -> str:
    """Write a new key's line to the file, which is made if need be, and give the key. Raises KeysInvalid."""
    token = new_key()
    line = Key(name, hashed(token.encode()), per_minute).line()

    def added(text: str) -> str:
        parse_keys(text, source=str(path))
        longer = f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{line}\n"
        parse_keys(longer, source=f"{path} with {name!r}")
        return longer

    _edit(path, added)
    return token


def remove_key(path: Path, name: str) -> None:
    """Take a name's line out of the file. Raises KeysInvalid, also when there is none."""

    def without(text: str) -> str:
        if name not in {key.name for key in parse_keys(text, source=str(path))}:
            raise KeysInvalid(f"{path}: no key has the name {name!r}")
        gone = {number for number, line in _entries(text) if line.split()[0] == name}
        return "\n".join(line for number, line in enumerate(text.split("\n"), start=1) if number not in gone)

    _edit(path, without)


def _edit(path: Path, change: Callable[[str], str]) -> None:
    """Replace the file by its changed text: whole or not at all, one editor at a time. A new file has mode 0600."""
    path = path.resolve()
    with _alone(path.parent):
        old = path.stat() if path.exists() else None
        text = change("" if old is None else _read(path))
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                if old is not None:
                    os.fchmod(file.fileno(), old.st_mode & 0o777)
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink()
            raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. A new key is printed once, on stdout; what goes wrong is one line on stderr, exit code 1."""
    asked = _arguments(arguments)
    try:
        if asked.command == "add":
            print(add_key(asked.file, asked.name, per_minute=asked.per_minute))
        elif asked.command == "remove":
            remove_key(asked.file, asked.name)
        else:
            for key in read_keys(asked.file):
                print(key.name, "no limit" if key.per_minute is None else f"{key.per_minute} a minute", sep="\t")
    except (KeysInvalid, OSError) as wrong:
        sys.exit(f"keys: {wrong}")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dermnote_http.keys", description="Keys of a service")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="make a key, write its hash to the file, print the key once")
    remove = commands.add_parser("remove", help="revoke a key")
    for command in (add, remove, commands.add_parser("list", help="names and limits")):
        command.add_argument("file", type=Path, metavar="FILE")
    for command in (add, remove):
        command.add_argument("name", metavar="NAME", help="whose key it is")
    add.add_argument("--per-minute", type=int, metavar="N", help="units that the key may use a minute")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
