"""The import rules of pyproject.toml hold, and one module imports each heavy library."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_import_contract_is_kept() -> None:
    lint = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_one_module_imports_each_heavy_library() -> None:
    modules = {
        "rq": {"services/notegen/src/dermnote_notegen/queue/rq_queue.py"},
        "llama_cpp": {"services/notegen/src/dermnote_notegen/engine/llama.py"},
        "faiss": {"services/retrieval/src/dermnote_retrieval/index/faiss_backend.py"},
        "onnxruntime": {"services/retrieval/src/dermnote_retrieval/encoder/onnx.py"},
    }

    for library, expected in modules.items():
        assert _files_importing(library) == expected


def test_one_module_per_deployable_imports_open_clip() -> None:
    files = _files_importing("open_clip")

    assert sorted(file.split("/")[1] for file in files) == ["retrieval", "train"]


def test_the_training_client_imports_pillow_for_drawing_only() -> None:
    """Images of the user are decoded by dermnote_imaging, whose decoder has limits."""
    source = "clients/train/src/dermnote_train/"
    files = {file for file in _files_importing("PIL") if file.startswith(source)}

    assert {file.removeprefix(source) for file in files} == {
        "data/draw.py",
        "data/paint.py",
        "findings/table.py",
        "report/images.py",
    }
    assert not [file for file in files if "Image.open" in (ROOT / file).read_text()]


def _files_importing(library: str) -> set[str]:
    starts = (
        f"import {library}\n",
        f"import {library}.",
        f"import {library} as",
        f"from {library} ",
        f"from {library}.",
    )
    sources = [path for folder in ("contracts", "services", "clients") for path in (ROOT / folder).rglob("src/**/*.py")]
    return {
        str(path.relative_to(ROOT))
        for path in sources
        if any(line.lstrip().startswith(starts) for line in path.read_text().splitlines(keepends=True))
    }
