"""The only reader of the environment in this package: one frozen object, units in the names."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of the API, the workers and the engine. See docs/settings.md."""

    model_config = SettingsConfigDict(env_prefix="NOTEGEN_", frozen=True, populate_by_name=True, extra="ignore")

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", validation_alias="REDIS_URL")
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

    engine_socket: Path = Path(".dermnote/engine.sock")
    engine_url: str | None = None
    engine_wait_s: float = Field(default=90, gt=0)
    priors_dir: Path | None = None
    model: str = "smollm2"
    threads: int | None = Field(default=None, ge=1)
    context_tokens: int = Field(default=2048, ge=256)
