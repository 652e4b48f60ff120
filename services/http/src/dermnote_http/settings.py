"""Settings that every HTTP service has, and one-line errors for invalid ones."""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from dermnote_contracts.problems import StartRefused

S = TypeVar("S", bound=BaseSettings)


def shared(name: str) -> AliasChoices:
    """Validation alias of a setting whose environment variable has no service prefix."""
    return AliasChoices(name, name.upper())


class ServiceSettings(BaseSettings):
    """Base of a service's settings. Subclasses set `env_prefix` and the port; an empty variable counts as not set."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, populate_by_name=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(ge=0, le=65535)
    keys_file: Path | None = None
    """File of API keys. Without it, callers need no key, and the service may listen on loopback only."""
    allow_unauthenticated: bool = Field(default=False, validation_alias=shared("allow_unauthenticated"))
    """Allow listening beyond loopback without keys; only for a trusted network."""
    log_format: Literal["text", "json"] = Field(default="text", validation_alias=shared("log_format"))


def read_settings(kind: type[S]) -> S:
    """The settings from the environment. Raises StartRefused, which names every invalid variable."""
    try:
        return kind()
    except ValidationError as error:
        lines = (f"{_variable(kind, fault['loc'])}: {fault['msg']}" for fault in error.errors())
        raise StartRefused("; ".join(lines)) from error


def _variable(kind: type[BaseSettings], location: tuple[int | str, ...]) -> str:
    """The environment variable of a field: its own alias, or prefix and name, in upper case."""
    name = str(location[0])
    field = kind.model_fields.get(name)
    aliases = {str(choice).upper() for one in kind.model_fields.values() for choice in _choices(one.validation_alias)}
    if name.upper() in aliases or (field is not None and field.validation_alias is not None):
        return name.upper()
    return kind.model_config.get("env_prefix", "") + name.upper()


def _choices(alias: object) -> tuple[object, ...]:
    return tuple(alias.choices) if isinstance(alias, AliasChoices) else (alias,)
