"""Paths and ports of the local stack, and the environment of its processes."""

import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

SOCKET_PATH_LIMIT = 90  # sun_path holds 108 bytes; leave room for a file name


@dataclass(frozen=True)
class Layout:
    """Paths and ports of one stack. Without `external_redis_url`, an embedded Valkey listens on `redis_port`."""

    home: Path
    notegen_port: int
    retrieval_port: int
    redis_port: int
    external_redis_url: str | None

    @property
    def sockets(self) -> Path:
        """Folder with paths short enough for Unix sockets."""
        if len(str(self.home)) <= SOCKET_PATH_LIMIT - 20:
            return self.home / "run"
        digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"dermnote-{os.getuid()}-{digest}"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def models(self) -> Path:
        return Path(os.environ.get("DERMNOTE_MODELS_DIR") or self.home / "models").absolute()

    @property
    def supervisor_socket(self) -> Path:
        return self.sockets / "supervisor.sock"

    @property
    def redis_url(self) -> str:
        return self.external_redis_url or f"redis://127.0.0.1:{self.redis_port}/0"

    def environment(self) -> dict[str, str]:
        """Variables that the programs get in addition to the caller's environment."""
        return {
            "DERMNOTE_STACK": str(self.home),
            "REDIS_URL": self.redis_url,
            # The embedded server has no password.
            "REDIS_PASSWORD_FILE": os.environ.get("REDIS_PASSWORD_FILE", "") if self.external_redis_url else "",
            "NOTEGEN_PORT": str(self.notegen_port),
            "NOTEGEN_ENGINE_SOCKET": str(self.sockets / "engine.sock"),
            "RETRIEVAL_PORT": str(self.retrieval_port),
            "RETRIEVAL_DATA_DIR": str(self.home / "retrieval"),
            "RETRIEVAL_MODELS_DIR": str(self.models),
            "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
        }


def read_layout(home: Path, environ: Mapping[str, str]) -> Layout:
    """The layout from the environment; the embedded server keeps the port of its last start."""
    home = home.absolute()
    external = environ.get("REDIS_URL") or None
    return Layout(
        home=home,
        notegen_port=int(environ.get("NOTEGEN_PORT", "8001")),
        retrieval_port=int(environ.get("RETRIEVAL_PORT", "8002")),
        redis_port=0 if external else _saved_redis_port(home / "stack.json"),
        external_redis_url=external,
    )


def _saved_redis_port(path: Path) -> int:
    try:
        return int(json.loads(path.read_text())["redis_port"])
    except (OSError, ValueError, KeyError):
        return free_port()


def with_free_redis_port(layout: Layout) -> Layout:
    """`layout`, with a new port for the embedded server if the present one is in use."""
    if layout.external_redis_url or is_free(layout.redis_port):
        return layout
    return replace(layout, redis_port=free_port())


def save_redis_port(layout: Layout) -> None:
    """Save the embedded server's port for the next start."""
    temporary = layout.home / "stack.json.new"
    temporary.write_text(json.dumps({"redis_port": layout.redis_port}))
    temporary.replace(layout.home / "stack.json")


def free_port() -> int:
    """A free TCP port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether the port can be bound on loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
