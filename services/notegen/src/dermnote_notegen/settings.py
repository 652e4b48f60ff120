"""The only reader of the environment in this package: one frozen object, units in the names."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from dermnote_contracts.cpu import usable_cores


def _cache_dir() -> Path:
    """Where a user's caches belong (XDG)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dermnote"


class Settings(BaseSettings):
    """Settings of the API, the workers and the engine. See docs/settings.md."""

    model_config = SettingsConfigDict(
        env_prefix="NOTEGEN_", env_ignore_empty=True, frozen=True, populate_by_name=True, extra="ignore"
    )

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", validation_alias="REDIS_URL")
    redis_password_file: Path | None = Field(default=None, validation_alias="REDIS_PASSWORD_FILE")
    keys_file: Path | None = None
    allow_unauthenticated: bool = Field(default=False, validation_alias="ALLOW_UNAUTHENTICATED")
    host: str = "127.0.0.1"
    port: int = Field(default=8001, ge=1, le=65535)
    max_body_bytes: int = Field(default=8 * 2**20, ge=1024)
    max_waiting: int = Field(default=20_000, ge=1)
    note_ttl_s: int = Field(default=7 * 24 * 3600, ge=60)

    job_timeout_s: int = Field(default=180, ge=5)
    job_retries: int = Field(default=3, ge=1, le=20)
    maintenance_interval_s: int = Field(default=10, ge=1)
    orphan_after_s: int = Field(default=20, ge=5)
    workers: int | None = Field(default=None, ge=1, le=512)

    engine_socket: Path = Path(".dermnote/engine.sock")
    engine_url: str | None = None
    engine_wait_s: float = Field(default=90, gt=0)
    own_engine: bool = True
    slots: int | None = Field(default=None, ge=1, le=128)
    priors_dir: Path | None = None
    model: str = "smollm2"
    threads: int | None = Field(default=None, ge=1)
    gpu_layers: int | None = Field(default=None, ge=0)
    context_tokens: int = Field(default=2048, ge=256)
    cache_tokens: int | None = Field(default=None, ge=256)
    engine_metrics_port: int | None = Field(default=None, ge=1, le=65535)
    requantize: Literal["auto", "off", "bf16", "q8_0", "q4_0"] = "auto"
    cache_dir: Path = Field(default_factory=_cache_dir)

    @property
    def engine_threads(self) -> int:
        """Threads of the engine: all cores that this process may use."""
        return self.threads or usable_cores()

    @property
    def engine_cells(self) -> int:
        """Tokens that the engine's cache holds, all requests together: 256 a slot, and any one request."""
        return max(self.cache_tokens or 256 * self.engine_slots, self.context_tokens)

    @property
    def engine_slots(self) -> int:
        """Requests that the engine runs at a time: 12 a core, between 12 and 48."""
        return self.slots or min(48, 12 * usable_cores())

    @property
    def worker_count(self) -> int:
        """Workers of a pool: more than the engine has slots, so that it is never idle while some verify."""
        return self.workers or self.engine_slots + self.engine_slots // 4

    @property
    def starts_engine(self) -> bool:
        """Whether the pool's parent runs the engine; otherwise somebody else does."""
        return self.own_engine and self.engine_url is None
