"""The only reader of the environment in this package. Units are in the names."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from dermnote_contracts.cpu import usable_cores
from dermnote_contracts.retrieval import ItemId
from dermnote_http.settings import ServiceSettings


class Settings(ServiceSettings):
    """Settings of the retrieval service. See docs/settings.md."""

    model_config = SettingsConfigDict(env_prefix="RETRIEVAL_")

    port: int = Field(default=8002, ge=0, le=65535)
    data_dir: Path = Path(".dermnote/retrieval")
    snapshots_dir: Path | None = None
    """Where snapshots go; not set: a folder in the data folder."""
    models_dir: Path = Path(".dermnote/models")
    encoder: Literal["auto", "onnx", "openclip", "dummy"] = "auto"
    """Runtime of the model folders; auto: ONNX where a folder has graphs, else open_clip."""
    model: ItemId | None = None
    """Name of the model to serve; not set: the one the store was made with, else the encoder's default."""
    reembed_at_start: bool = False
    """Re-embed the whole store before serving when another model made its vectors; not set: refuse to start."""
    max_upload_bytes: int = Field(default=20_000_000, ge=1_000)
    max_pixels: int = Field(default=40_000_000, ge=1_000, le=80_000_000)
    max_body_bytes: int = Field(default=2_000_000, ge=1_000)
    """Most bytes of a JSON body, and of all of a form's fields that are not the image."""
    stored_image_px: int = Field(default=512, ge=64, le=2048)
    """Longer side of the stored image, which is also what the encoder sees."""
    bulk_chunk_items: int = Field(default=64, ge=1, le=1024)
    """Records of a bulk load that are committed together."""
    workers: int = Field(default=32, ge=1, le=256)
    """Requests worked on at a time. Most of them wait for a shared encoder call."""
    decoders: int = Field(default_factory=usable_cores, ge=1, le=64)
    """Images decoded at a time; the cores that the process may use where it is not set."""
    max_waiting: int = Field(default=128, ge=1)
    """Requests that may wait for a worker, and as many for a search; more are refused with 503."""
    flat_vectors: int = Field(default=200_000, ge=1)
    """Vectors of a route that are searched exactly; beyond them inverted lists are built."""
    recall_goal: float = Field(default=0.97, ge=0.5, le=1)
    """Recall@10 against exact search that the lists must reach."""
    search_threads: int = Field(default_factory=usable_cores, ge=1, le=256)
    """Threads of one index search; the cores that the process may use where it is not set."""
    encoder_calls: int = Field(default=1, ge=1, le=64)
    """Encoder calls that run at a time."""
    encoder_threads: int = Field(default_factory=usable_cores, ge=1, le=256)
    """Threads of one encoder call; the cores that the process may use where it is not set."""

    drain_s: float = Field(default=20, ge=0, le=3600)
    """How long what runs may go on once the process is told to stop."""
