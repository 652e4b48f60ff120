"""Model folders: `<models_dir>/<name>/manifest.json` and the files it lists, verified by sha256 before use."""

import hashlib
import logging
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from dermnote_contracts.manifest import IMAGE_GRAPH, MANIFEST_NAME, TEXT_GRAPH, ModelManifest
from dermnote_contracts.problems import ModelRefused, UnknownModel
from dermnote_retrieval.encoder import onnx
from dermnote_retrieval.encoder.base import Encoder

Runtime = Literal["auto", "onnx", "openclip"]
log = logging.getLogger(__name__)


class FolderModels:
    """The models that the training client exported to one folder."""

    default = "lite"

    def __init__(self, models_dir: Path, *, threads: int, runtime: Runtime = "auto") -> None:
        """`threads`: per encoder call. `runtime` auto: ONNX if the folder has graphs, else open_clip."""
        self._dir = models_dir
        self._threads = threads
        self._runtime = runtime

    def manifests(self) -> list[ModelManifest]:
        """Every valid manifest; invalid ones are logged and skipped."""
        names = sorted(path.parent.name for path in self._dir.glob(f"*/{MANIFEST_NAME}"))
        manifests = []
        for name in names:
            try:
                manifests.append(self.manifest(name))
            except ModelRefused as error:
                log.warning("skipping model folder %s: %s", name, error.detail)
        return manifests

    def manifest(self, name: str) -> ModelManifest:
        path = self._folder(name) / MANIFEST_NAME
        try:
            manifest = ModelManifest.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ModelRefused(f"{name}/{MANIFEST_NAME}: {field}: {first['msg']}") from error
        except OSError as error:
            raise ModelRefused(f"{name}/{MANIFEST_NAME} cannot be read: {error.strerror}") from error
        if manifest.name != name:
            raise ModelRefused(f"{name}/{MANIFEST_NAME} is the manifest of a model named {manifest.name}")
        return manifest

    def load(self, name: str) -> Encoder:
        """Raises UnknownModel or ModelRefused."""
        manifest, folder = self.manifest(name), self._folder(name).resolve()
        has_graphs = all(graph in manifest.files for graph in (IMAGE_GRAPH, TEXT_GRAPH))
        if self._runtime == "onnx" or (self._runtime == "auto" and (has_graphs or manifest.kind == "onnx")):
            _check_folder(folder, manifest, needed=onnx.NEEDED)
            return onnx.OnnxEncoder(folder, manifest, threads=self._threads)
        # torch is an extra and takes seconds to import: only open_clip models need it.
        try:
            from dermnote_retrieval.encoder import openclip  # noqa: PLC0415
        except ImportError as error:
            raise ModelRefused(
                f"{name} needs {error.name}: export it with ONNX graphs, or install dermnote-retrieval[torch]"
            ) from error
        _check_folder(folder, manifest, needed=openclip.NEEDED)
        return openclip.OpenClipEncoder(folder, manifest, threads=self._threads)

    def _folder(self, name: str) -> Path:
        folder = self._dir / name
        if name in (".", "..") or Path(name).name != name or not (folder / MANIFEST_NAME).is_file():
            available = ", ".join(manifest.name for manifest in self.manifests()) or "none"
            raise UnknownModel(f"no model {name}; available: {available}")
        return folder


def _check_folder(folder: Path, manifest: ModelManifest, *, needed: tuple[str, ...]) -> None:
    """Verify that the needed files are listed, and that every listed file is inside the folder and has its sha256."""
    missing = [name for name in needed if name not in manifest.files]
    if missing:
        raise ModelRefused(f"{manifest.name}/{MANIFEST_NAME} does not list {', '.join(missing)}")
    for relative, expected in manifest.files.items():
        path = folder / relative
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ModelRefused(f"{manifest.name}: {relative} is outside the folder")
        try:
            with path.open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelRefused(f"{manifest.name}: {relative} cannot be read: {error.strerror}") from error
        if actual != expected:
            raise ModelRefused(f"{manifest.name}: {relative} differs from the exported file (sha256 mismatch)")
