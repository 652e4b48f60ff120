"""The real service in its own process, with an encoder that blocks until the test creates a file."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from dermnote_contracts.manifest import ModelManifest
from dermnote_http.logging import configure_logging
from dermnote_http.settings import read_settings
from dermnote_retrieval.app import create_app, serve
from dermnote_retrieval.encoder.base import Encoder, Vectors
from dermnote_retrieval.encoder.dummy import DummyEncoder, DummyModels
from dermnote_retrieval.service import open_service
from dermnote_retrieval.settings import Settings

GATE = "DERMNOTE_TEST_GATE"
"""A folder: the first text creates `arrived` in it and waits until `open` exists."""


class GatedEncoder(DummyEncoder):
    """Encodes texts only when the gate is open."""

    def __init__(self, manifest: ModelManifest, gate: Path) -> None:
        super().__init__(manifest)
        self._gate = gate

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        (self._gate / "arrived").touch()
        while not (self._gate / "open").exists():
            time.sleep(0.01)
        return super().encode_texts(texts)


class GatedModels(DummyModels):
    """The dummies behind a gate."""

    def load(self, name: str) -> Encoder:
        return GatedEncoder(self.manifest(name), Path(os.environ[GATE]))


if __name__ == "__main__":
    configure_logging()
    settings = read_settings(Settings)
    serve(create_app(settings, service=open_service(settings, source=GatedModels())), settings, closing_s=3)
