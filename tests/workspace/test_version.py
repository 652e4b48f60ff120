"""The version is defined once; every other file that must repeat it agrees."""

import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

from dermnote_contracts import __version__

ROOT = Path(__file__).parents[2]
# Image tags, and compose's default for them.
REPEATED = re.compile(r"(?:dermnote/[a-z-]+:|newTag: |DERMNOTE_VERSION(?::-|=|` \| ))(\d+\.\d+\.\d+)")


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.split()


def test_every_package_takes_its_version_from_the_contracts() -> None:
    for file in [ROOT / name for name in tracked_files() if name.endswith("/pyproject.toml")]:
        project, described = file.parent, tomllib.loads(file.read_text())
        assert "version" not in described["project"], project
        path = project / described["tool"]["hatch"]["version"]["path"]
        assert path.resolve() == ROOT / "contracts/src/dermnote_contracts/__init__.py"
        assert version(described["project"]["name"]) == __version__


def test_every_image_tag_is_that_version() -> None:
    versions = {
        (name, tag)
        for name in tracked_files()
        if name.endswith((".yml", ".yaml", ".md")) and name != "CHANGELOG.md"
        for tag in REPEATED.findall((ROOT / name).read_text())
    }

    assert {"docker-compose.yml", "k8s/components/images/kustomization.yaml"} <= {name for name, _ in versions}
    assert {tag for _, tag in versions} == {__version__}
