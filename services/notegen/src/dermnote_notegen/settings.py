"""Settings from the environment, which no other module of this package reads. Units are part of the names."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, HttpUrl
from pydantic_settings import SettingsConfigDict

from dermnote_contracts.cpu import usable_cores
from dermnote_http.settings import ServiceSettings, shared


def _cache_dir() -> Path:
    """The user's cache folder (XDG)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dermnote"


def _file(path: Path) -> Path:
    """The path, if its last part is a name; raises ValueError."""
    if not path.name or path.name == "..":
        raise ValueError("the path must end with the name of a file")
    return path


DAY_S = 24 * 3600
# Larger caches would need terabytes of memory.
MAX_TOKENS = 2**24


class Settings(ServiceSettings):
    """Settings of the API, the workers and the engine. See docs/settings.md."""

    model_config = SettingsConfigDict(env_prefix="NOTEGEN_")

    port: int = Field(default=8001, ge=1, le=65535)
    redis_url: str = Field(default="redis://127.0.0.1:6379/0", validation_alias=shared("redis_url"))
    redis_password_file: Path | None = Field(default=None, validation_alias=shared("redis_password_file"))
    max_body_bytes: int = Field(default=8 * 2**20, ge=1024)
    max_waiting: int = Field(default=20_000, ge=1)
    note_ttl_s: int = Field(default=7 * DAY_S, ge=60, le=3650 * DAY_S)

    job_timeout_s: int = Field(default=180, ge=5, le=DAY_S)
    job_retries: int = Field(default=3, ge=1, le=20)
    maintenance_interval_s: int = Field(default=10, ge=1, le=DAY_S)
    orphan_after_s: int = Field(default=20, ge=5, le=DAY_S)
    workers: int | None = Field(default=None, ge=1, le=512)

    engine_socket: Annotated[Path, AfterValidator(_file)] = Path(".dermnote/engine.sock")
    engine_url: HttpUrl | None = None
    engine_wait_s: float = Field(default=90, gt=0, le=DAY_S)
    own_engine: bool = True
    slots: int | None = Field(default=None, ge=1, le=128)
    priors_dir: Path | None = None
    model: str = "smollm2"
    threads: int | None = Field(default=None, ge=1, le=512)
    gpu_layers: int | None = Field(default=None, ge=0, le=10_000)
    context_tokens: int = Field(default=2048, ge=256, le=MAX_TOKENS)
    cache_tokens: int | None = Field(default=None, ge=256, le=MAX_TOKENS)
    engine_metrics_port: int | None = Field(default=None, ge=1, le=65535)
    requantize: Literal["auto", "off", "bf16", "q8_0", "q4_0"] = "auto"
    cache_dir: Path = Field(default_factory=_cache_dir)

    @property
    def engine_threads(self) -> int:
        """Threads of the engine; by default all cores that this process may use."""
        return self.threads or usable_cores()

    @property
    def engine_cells(self) -> int:
        """Tokens in the engine's KV cache: by default 256 per slot, and always enough for one request."""
        return max(self.cache_tokens or 256 * self.engine_slots, self.context_tokens)

    @property
    def engine_slots(self) -> int:
        """Requests that the engine runs concurrently: by default 12 per core, between 12 and 48."""
        return self.slots or min(48, 12 * usable_cores())

    @property
    def worker_count(self) -> int:
        """Workers: by default more than the engine has slots, so that it stays busy while some workers verify notes."""
        return self.workers or self.engine_slots + self.engine_slots // 4

    @property
    def starts_engine(self) -> bool:
        """Whether the worker program runs the engine itself."""
        return self.own_engine and self.engine_url is None
