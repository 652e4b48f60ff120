"""Settings of the retrieval service, from environment variables; the only module that reads the environment."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from dermnote_contracts.cpu import usable_cores
from dermnote_contracts.retrieval import ItemId
from dermnote_http.settings import ServiceSettings


class Settings(ServiceSettings):
    """RETRIEVAL_* variables; units are part of the names. See docs/settings.md."""

    model_config = SettingsConfigDict(env_prefix="RETRIEVAL_")

    port: int = Field(default=8002, ge=0, le=65535)
    data_dir: Path = Path(".dermnote/retrieval")
    snapshots_dir: Path | None = None
    """Folder of the snapshots; default: a subfolder of the data folder."""
    models_dir: Path = Path(".dermnote/models")
    encoder: Literal["auto", "onnx", "openclip", "dummy"] = "auto"
    """Runtime of the models; auto: ONNX if the model folder has ONNX graphs, else open_clip."""
    model: ItemId | None = None
    """Name of the model to serve; default: the store's model; for a new store, `lite` (encoder dummy: `dummy`)."""
    reembed_at_start: bool = False
    """If the store holds another model's vectors, re-embed it before serving; default: fail to start."""
    max_upload_bytes: int = Field(default=20_000_000, ge=1_000)
    max_pixels: int = Field(default=40_000_000, ge=1_000, le=80_000_000)
    max_body_bytes: int = Field(default=2_000_000, ge=1_000)
    """Maximum bytes of a JSON body, and of all fields of a form other than images."""
    stored_image_px: int = Field(default=512, ge=64, le=2048)
    """Longer side of the stored image, which is also the encoder's input."""
    bulk_chunk_items: int = Field(default=64, ge=1, le=1024)
    """Records of a bulk load per transaction."""
    workers: int = Field(default=32, ge=1, le=256)
    """Requests processed at a time. Most of them wait for a shared encoder call."""
    decoders: int = Field(default_factory=usable_cores, ge=1, le=64)
    """Images decoded at a time; default: the cores that the process may use."""
    max_waiting: int = Field(default=128, ge=1)
    """Maximum length of the queue for a worker, and of that for an index search; further requests get 503."""
    flat_vectors: int = Field(default=200_000, ge=1)
    """Up to this many vectors per route are searched exactly; above it, inverted lists are built."""
    recall_goal: float = Field(default=0.97, ge=0.5, le=1)
    """Minimum recall@10 of the inverted lists, relative to exact search."""
    search_threads: int = Field(default_factory=usable_cores, ge=1, le=256)
    """Threads per index search; default: the cores that the process may use."""
    encoder_calls: int = Field(default=1, ge=1, le=64)
    """Concurrent encoder calls for images, and as many for texts."""
    encoder_threads: int = Field(default_factory=usable_cores, ge=1, le=256)
    """Threads per encoder call; default: the cores that the process may use."""
    drain_s: float = Field(default=20, ge=0, le=3600)
    """Seconds that running requests get to finish after the stop signal."""
