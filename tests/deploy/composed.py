"""Test driver for a compose stack with its own name and ports on a real Docker engine."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.conftest import ROOT, wait_until
from tests.ports import free_port

PROJECT = "dermnote-compose-test"


@dataclass(frozen=True)
class Container:
    """A running container as reported by `docker inspect`."""

    id: str
    service: str
    inspected: dict[str, Any]

    @property
    def pid(self) -> int:
        """The pid of its first process on the host."""
        return int(self.inspected["State"]["Pid"])

    def run(self, *command: str) -> str:
        """The output of a command in the container; raises if it fails."""
        return docker("exec", self.id, *command)

    def tries(self, *command: str) -> bool:
        """Whether a command in the container succeeds."""
        return not subprocess.run(["docker", "exec", self.id, *command], capture_output=True, check=False).returncode

    def kill(self) -> None:
        """kill -9 of its first process, like a crash: Docker restarts the container."""
        os.kill(self.pid, signal.SIGKILL)


def docker(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """The output of a docker command; if it fails, raises with its error output."""
    done = subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert not done.returncode, f"docker {' '.join(arguments)}: {done.stderr[-3000:]}"
    return done.stdout


def inspected(*ids: str) -> Sequence[Container]:
    """Containers by id or name."""
    label = "com.docker.compose.service"
    return [Container(one["Id"], one["Config"]["Labels"][label], one) for one in json.loads(docker("inspect", *ids))]


@dataclass(frozen=True)
class Composed:
    """docker compose in the repository's root, with its own project name and ports."""

    environment: dict[str, str] = field(
        default_factory=lambda: (
            os.environ
            | {
                "COMPOSE_PROJECT_NAME": PROJECT,
                "DERMNOTE_VERSION": "compose-test",
                "NOTEGEN_PORT": str(free_port()),
                "RETRIEVAL_PORT": str(free_port()),
                "RQ_DASHBOARD_PORT": str(free_port()),
            }
        )
    )

    def __call__(self, *arguments: str) -> str:
        """The output of `docker compose ...`."""
        return docker("compose", *arguments, environment=self.environment)

    def up(self, *arguments: str) -> None:
        """`docker compose up --wait`; if it fails, raises with the containers' logs."""
        try:
            self("up", "--detach", "--wait", "--wait-timeout", "600", *arguments)
        except AssertionError:
            print(self("logs", "--tail", "40"), file=sys.stderr)
            raise

    @property
    def notegen(self) -> str:
        return f"http://127.0.0.1:{self.environment['NOTEGEN_PORT']}"

    @property
    def retrieval(self) -> str:
        return f"http://127.0.0.1:{self.environment['RETRIEVAL_PORT']}"

    @property
    def rq_dashboard(self) -> str:
        return f"http://127.0.0.1:{self.environment['RQ_DASHBOARD_PORT']}"

    def containers(self, *services: str) -> Sequence[Container]:
        """The running containers of the given services, or of all."""
        ids = self("ps", "--quiet", *services).split()
        return inspected(*ids) if ids else []

    def wait_restarted(self, killed: Container) -> None:
        """Wait until a killed container has restarted and is healthy."""

        def healthy() -> bool:
            (state,) = (one["State"] for one in json.loads(docker("inspect", killed.id)))
            return state["Pid"] not in (0, killed.pid) and state["Health"]["Status"] == "healthy"

        wait_until(healthy, timeout_s=300, what=f"{killed.service} runs again")

    def size(self, service: str) -> int:
        """Bytes that a service's image adds to its base image."""
        image = json.loads(docker("image", "inspect", f"dermnote/{service}:compose-test"))[0]
        base = json.loads(docker("image", "inspect", "python:3.11-slim-bookworm"))[0]
        return int(image["Size"]) - int(base["Size"])
