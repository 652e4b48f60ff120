"""Linter checks of Dockerfiles and compose files, and their consistency with the code. Needs no Docker engine."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dermnote_notegen.settings import Settings as NotegenSettings
from dermnote_retrieval.runtime.shutdown import CLOSING_S
from dermnote_retrieval.settings import Settings as RetrievalSettings
from tests.e2e.conftest import ROOT

BIN = Path(sys.executable).parent
DOCKERFILES = sorted(path for part in ("services", "clients") for path in (ROOT / part).glob("*/Dockerfile"))
COMPOSE = ROOT / "docker-compose.yml"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def seconds(text: str) -> int:
    """Parse a duration of the compose files, in whole seconds."""
    assert re.fullmatch(r"\d+s", text), text
    return int(text.removesuffix("s"))


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_there_is_a_dockerfile_for_each_deployable() -> None:
    assert [path.parent.name for path in DOCKERFILES] == ["train", "notegen", "retrieval"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_hadolint_passes(path: Path) -> None:
    done = run(BIN / "hadolint", "--no-color", path)

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_each_hadolint_exception_is_explained_on_the_line_before(path: Path) -> None:
    lines = path.read_text().splitlines()

    for number, line in enumerate(lines):
        if "hadolint ignore" in line:
            previous = lines[number - 1]
            repeated = line in lines[:number]  # the same rule for the same reason, explained at its first use
            assert repeated or re.match(r"# \w", previous), f"{path}:{number + 1}"


def test_compose_lint_finds_only_explained_exceptions() -> None:
    done = run(BIN / "compose-lint", "--fail-on", "low", COMPOSE)

    assert done.returncode == 0, done.stdout
    rules = yaml.safe_load((ROOT / ".compose-lint.yml").read_text())["rules"]
    reasons = [reason for rule in rules.values() for reason in rule["exclude_services"].values()]
    assert all(len(reason.split()) > 3 for reason in reasons)


def instructions(path: Path, *, stage: str) -> list[str]:
    """The instructions of a Dockerfile stage, without FROM, comments and blank lines."""
    stages = re.split(r"^FROM .* AS ", path.read_text(), flags=re.MULTILINE)
    (content,) = [text for text in stages if text.startswith(f"{stage}\n")]
    lines = content.split("\nFROM ")[0].splitlines()[1:]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def test_retrieval_builds_the_client_like_the_image_of_the_client() -> None:
    """Equal steps share their layers; a Dockerfile cannot include another."""
    train, retrieval = ROOT / "clients/train/Dockerfile", ROOT / "services/retrieval/Dockerfile"
    steps = instructions(train, stage="build")

    assert len(steps) > 10
    assert instructions(retrieval, stage="build-client") == steps


def test_prometheus_scrapes_the_same_targets_with_and_without_keys() -> None:
    without, with_keys = (
        yaml.safe_load((ROOT / "compose" / name).read_text()) for name in ("prometheus.yml", "prometheus-keys.yml")
    )
    authorization = [job.pop("authorization", None) for job in with_keys["scrape_configs"]]

    assert [job is not None for job in authorization] == [True, False, True]
    assert with_keys == without


def test_only_compose_serves_without_keys(compose: dict[str, Any]) -> None:
    """No image, Kubernetes manifest or override disables authentication."""
    elsewhere = [*DOCKERFILES, *(path for path in (ROOT / "k8s").rglob("*") if path.suffix in (".yaml", ".py"))]

    assert [path for path in elsewhere if "ALLOW_UNAUTHENTICATED" in path.read_text()] == [
        ROOT / "k8s" / "base" / "notegen-api.yaml"  # a comment
    ]
    assert not re.search(r"^[^#]*ALLOW_UNAUTHENTICATED", (ROOT / "k8s/base/notegen-api.yaml").read_text(), re.MULTILINE)
    for path in (ROOT / "compose").glob("*.yml"):
        for service in yaml.safe_load(path.read_text()).get("services", {}).values():
            assert service.get("environment", {}).get("ALLOW_UNAUTHENTICATED", "0") == "0", path
    for name in ("notegen-api", "retrieval"):
        service = compose["services"][name]
        assert service["environment"]["ALLOW_UNAUTHENTICATED"] == "1"
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_stop_grace_periods_exceed_the_shutdown_times(compose: dict[str, Any]) -> None:
    services = compose["services"]

    assert seconds(services["notegen-worker"]["stop_grace_period"]) > NotegenSettings().job_timeout_s
    assert seconds(services["retrieval"]["stop_grace_period"]) > RetrievalSettings().drain_s + CLOSING_S


def test_every_variable_of_compose_is_documented(compose: dict[str, Any]) -> None:
    text = COMPOSE.read_text() + "".join(path.read_text() for path in (ROOT / "compose").glob("*.yml"))
    documented = (ROOT / "docs" / "deploy.md").read_text()

    missing = {name for name in re.findall(r"\$\{(\w+)", text) if f"`{name}`" not in documented}
    assert missing == set()
    settings = (ROOT / "docs" / "settings.md").read_text()
    ours = {
        name
        for service in ("notegen-api", "notegen-worker", "retrieval", "train")
        for name in compose["services"][service]["environment"]
    }
    assert {name for name in ours - {"HF_HUB_OFFLINE"} if f"`{name}`" not in settings} == set()


def test_no_host_secret_enters_an_image() -> None:
    """The build context is an allow-list."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]

    assert rules[0] == "*"
    assert {rule for rule in rules if rule.startswith("!")} == {
        "!constraints.txt",
        "!contracts",
        "!imaging",
        "!services",
        "!clients",
    }
