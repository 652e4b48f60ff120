"""Settings from the environment: the shared ones, and wrong values in one line that names each variable."""

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from dermnote_contracts.problems import StartRefused
from dermnote_http.settings import ServiceSettings, read_settings, shared


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="TEST_")

    port: int = Field(default=8000, ge=1, le=65535)
    cache_url: str = Field(default="none", validation_alias=shared("cache_url"))
    size: int = Field(default=1, ge=1)


def test_values_come_from_prefixed_and_shared_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TEST_PORT": "9", "CACHE_URL": "here", "LOG_FORMAT": "json", "TEST_SIZE": ""}.items():
        monkeypatch.setenv(name, value)

    settings = read_settings(Settings)

    assert (settings.port, settings.cache_url, settings.log_format, settings.size) == (9, "here", "json", 1)
    assert Settings(cache_url="by name").cache_url == "by name"


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"TEST_PORT": "many"}, ["TEST_PORT"]),
        ({"ALLOW_UNAUTHENTICATED": "perhaps"}, ["ALLOW_UNAUTHENTICATED"]),
        ({"LOG_FORMAT": "xml"}, ["LOG_FORMAT"]),
        ({"TEST_PORT": "0", "TEST_SIZE": "x", "LOG_FORMAT": "xml"}, ["TEST_PORT", "TEST_SIZE", "LOG_FORMAT"]),
    ],
)
def test_wrong_values_are_one_line_with_every_variable(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: list[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(StartRefused) as error:
        read_settings(Settings)

    assert "\n" not in error.value.detail
    assert sorted(part.split(":")[0] for part in error.value.detail.split("; ")) == sorted(named)
