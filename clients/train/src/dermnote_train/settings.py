"""Settings of the client; the only module that reads the environment."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """URLs and keys of the services, and folders. Each field is an environment variable of the same name."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    notegen_url: str = "http://127.0.0.1:8001"
    retrieval_url: str = "http://127.0.0.1:8002"
    notegen_api_key: SecretStr | None = None
    retrieval_api_key: SecretStr | None = None
    dermnote_home: Path = Path(".dermnote")
    dermnote_models_dir: Path | None = Field(default=None, description="Model folders; DERMNOTE_HOME/models if unset")

    @property
    def models_dir(self) -> Path:
        """The folder from which the retrieval service loads models."""
        return self.dermnote_models_dir or self.dermnote_home / "models"
