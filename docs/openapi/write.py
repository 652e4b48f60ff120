"""Writes the services' OpenAPI documents into this folder; run by `make openapi`, checked by a test."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from fastapi import FastAPI

import dermnote_notegen.api.app
import dermnote_notegen.settings
import dermnote_retrieval.app
import dermnote_retrieval.settings

FOLDER = Path(__file__).parent


def documents() -> Iterator[tuple[Path, str]]:
    """(path, content) of each service's document."""
    yield FOLDER / "notegen.json", _render(dermnote_notegen.api.app.create_app(dermnote_notegen.settings.Settings()))
    with TemporaryDirectory() as folder:
        settings = dermnote_retrieval.settings.Settings(data_dir=Path(folder), encoder="dummy")
        yield FOLDER / "retrieval.json", _render(dermnote_retrieval.app.create_app(settings))


def _render(app: FastAPI) -> str:
    return json.dumps(app.openapi(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for path, content in documents():
        path.write_text(content)
        print(path.name)
