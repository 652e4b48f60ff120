"""Serves clip-retrieval's KnnService with Flask over a flat FAISS index of given vectors, in a separate environment.

clip-retrieval pins NumPy 1 and depends on torch, two CLIP packages and an experiment tracker, which a search by vector
never calls. It is therefore installed without its dependencies; only those that such a search needs are added, with
Dermnote's version of FAISS, and an empty module replaces `torch`. Its image and text towers are thus not compared.

    python -m lab.peers.clip_retrieval VECTORS.npy METADATA_FOLDER PORT      (inside that environment)
"""

import subprocess
import sys
import venv
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

HOST = "127.0.0.1"
PACKAGE = "clip-retrieval==2.45.0"
NEEDS = ("flask", "flask-restful", "flask-cors", "fire", "pandas", "pyarrow", "fsspec", "h5py", "tqdm", "pillow")
NEEDS_TOO = ("prometheus-client", "numpy")
FOLDER = Path(".dermnote/peers/clip-retrieval")


def python_of(folder: Path = FOLDER) -> Path:
    """The Python of clip-retrieval's virtual environment, which the first call creates. Raises CalledProcessError."""
    python = folder / "bin" / "python"
    if not (folder / "made").is_file():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *NEEDS, *NEEDS_TOO, f"faiss-cpu=={version('faiss-cpu')}"], check=True)  # noqa: S603
        subprocess.run([*pip, "--no-deps", PACKAGE], check=True)  # noqa: S603 - the command is the benchmark's own
        (folder / "made").touch()
    return python.absolute()


def main() -> None:
    """Serve until killed."""
    # Imported here, because other modules import this one where Flask is not installed.
    import faiss  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415
    from flask import Flask  # noqa: PLC0415
    from flask_restful import Api  # noqa: PLC0415

    clip_back = _clip_back()

    vectors, metadata, port = sys.argv[1:]
    rows = np.load(vectors, mmap_mode="r")
    index = faiss.IndexFlatIP(rows.shape[1])
    for start in range(0, len(rows), 100_000):
        index.add(np.ascontiguousarray(rows[start : start + 100_000]))
    resource = clip_back.ClipResource(
        device="cpu",
        model=None,
        preprocess=None,
        tokenizer=None,
        model_txt_mclip=None,
        safety_model=None,
        violence_detector=None,
        metadata_provider=clip_back.ParquetMetadataProvider(metadata),
        image_index=index,
        text_index=None,
        ivf_old_to_new_mapping=None,
        columns_to_return=["caption", "image_path"],
        metadata_is_ordered_by_ivf=False,
        aesthetic_embeddings=None,
    )
    app = Flask("clip-retrieval")
    api = Api(app)
    api.add_resource(clip_back.Health, "/health")
    api.add_resource(clip_back.KnnService, "/knn-service", resource_class_kwargs={"clip_resources": {"all": resource}})
    app.run(host=HOST, port=int(port), debug=False)


def _clip_back() -> Any:
    """The module `clip_back`, which contains the service, imported without the package's other commands."""
    spec = find_spec("clip_retrieval")
    if spec is None or spec.submodule_search_locations is None:
        sys.exit("clip-retrieval is not installed in this environment")
    package = ModuleType("clip_retrieval")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules |= {"clip_retrieval": package, "torch": ModuleType("torch")}
    return import_module("clip_retrieval.clip_back")


if __name__ == "__main__":
    main()
