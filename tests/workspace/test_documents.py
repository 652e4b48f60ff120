"""Documents agree with the code: settings, OpenAPI files, the README's tree."""

import re
import runpy
from pathlib import Path

import pytest
from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

import dermnote_notegen.settings
import dermnote_retrieval.settings
import dermnote_train.settings

ROOT = Path(__file__).parents[2]
PACKAGES = (dermnote_notegen.settings, dermnote_retrieval.settings, dermnote_train.settings)


def variables(settings: type[BaseSettings]) -> set[str]:
    """The environment variables that a settings class reads."""
    prefix = settings.model_config.get("env_prefix", "")
    return {_variable(field) or f"{prefix}{name}".upper() for name, field in settings.model_fields.items()}


def _variable(field: FieldInfo) -> str | None:
    """The environment variable that a field declares as its alias, if any."""
    alias = field.validation_alias
    return str(alias.choices[-1]) if isinstance(alias, AliasChoices) else alias  # type: ignore[return-value]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_setting_is_documented(package: object) -> None:
    documented = set(re.findall(r"^\| `([A-Z_]+)`", (ROOT / "docs/settings.md").read_text(), re.MULTILINE))

    assert variables(package.Settings) <= documented  # type: ignore[attr-defined]


def test_every_documented_setting_is_read() -> None:
    documented = set(re.findall(r"^\| `([A-Z_]+)`", (ROOT / "docs/settings.md").read_text(), re.MULTILINE))
    stack = set(
        re.findall(
            r'"((?:[A-Z]+_)+[A-Z]+)"', (ROOT / "stack/layout.py").read_text() + (ROOT / "stack/__main__.py").read_text()
        )
    )

    assert documented <= set().union(*(variables(package.Settings) for package in PACKAGES)) | stack


def test_openapi_files_are_up_to_date() -> None:
    documents = runpy.run_path(str(ROOT / "docs/openapi/write.py"))["documents"]

    for path, content in documents():
        assert path.read_text() == content, f"{path.name} is out of date: run make openapi"


def test_the_readme_tree_lists_every_folder() -> None:
    readme = (ROOT / "README.md").read_text()
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}

    for folder in folders - {"__pycache__", "build", "dist"}:
        assert f"{folder}/" in readme, folder


def test_every_make_target_has_a_help_text() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)

    assert targets is not None
    for target in targets[1].split():
        assert re.search(rf"^{target}:.*## \w", makefile, re.MULTILINE), target
