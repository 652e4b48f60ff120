"""API keys of the client: sent with every request, never shown; if it is missing, the error names the setting."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from pydantic import SecretStr
from redis import Redis
from typer.testing import CliRunner

from dermnote_contracts.notes import NoteRequest
from dermnote_contracts.problems import TooManyRequests, Unauthorized, one_line
from dermnote_http.keys import add_key
from dermnote_notegen.api.app import create_app
from dermnote_notegen.settings import Settings as NotegenSettings
from dermnote_train.cli import make_app
from dermnote_train.errors import UserError
from dermnote_train.remote.notegen import NoteService
from dermnote_train.remote.retrieval import RetrievalService
from dermnote_train.settings import Settings
from tests.train.servers import SCRIPTED, Answer, problem, retrieval_service, scripted_server, served, valkey

MODEL = Answer(body=SCRIPTED.model_dump_json().encode())
REQUEST = NoteRequest.model_validate({"metadata": {"diagnosis": "mel"}, "strategy": "M"})
SPENT = TooManyRequests("5 units a minute")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def notegen_url(tmp_path: Path, file: Path) -> Iterator[str]:
    """The note service with an unrelated key, over a real Valkey."""
    add_key(file, "somebody")
    (tmp_path / "valkey").mkdir()
    with (
        valkey(tmp_path / "valkey") as redis_url,
        Redis.from_url(redis_url) as redis,
        served(create_app(NotegenSettings(keys_file=file), redis=redis)) as url,
    ):
        yield url


def test_the_key_is_sent_with_every_request() -> None:
    with scripted_server(MODEL) as server, NoteService(server.url, key=SecretStr(" dn_secret\n")) as service:
        service.model()
        service.health()

    assert [request.headers["Authorization"] for request in server.received] == ["Bearer dn_secret"] * 2


@pytest.mark.parametrize("key", [None, SecretStr(""), SecretStr(" ")])
def test_without_a_key_no_header_is_sent(key: SecretStr | None) -> None:
    with scripted_server(MODEL) as server, NoteService(server.url, key=key) as service:
        service.model()

    assert "Authorization" not in server.received[0].headers


@pytest.mark.parametrize("key", ["dn_\nsecret", "dn_ secret", "dn_sécret", "dn_secret\x7f"])
def test_an_invalid_key_is_rejected_without_showing_it(key: str) -> None:
    with pytest.raises(UserError, match="NOTEGEN_API_KEY") as raised:
        NoteService("http://127.0.0.1:1", key=SecretStr(key))

    assert "cret" not in str(raised.value)


def test_keys_are_read_from_the_environment_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTEGEN_API_KEY", "dn_notes")
    monkeypatch.setenv("RETRIEVAL_API_KEY", "dn_search")
    settings = Settings()

    assert settings.notegen_api_key == SecretStr("dn_notes")
    assert settings.retrieval_api_key == SecretStr("dn_search")
    assert "dn_" not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_there_is_no_default_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTEGEN_API_KEY", raising=False)
    monkeypatch.delenv("RETRIEVAL_API_KEY", raising=False)

    assert (Settings().notegen_api_key, Settings().retrieval_api_key) == (None, None)


def test_the_note_service_accepts_a_key(notegen_url: str, file: Path) -> None:
    with NoteService(notegen_url, key=SecretStr(add_key(file, "clinic"))) as service:
        job = service.submit(REQUEST)
        assert service.get(job.id).id == job.id


def test_a_missing_or_wrong_key_names_the_setting(notegen_url: str) -> None:
    for key in (None, SecretStr("dn_secret")):
        with NoteService(notegen_url, key=key) as service, pytest.raises(Unauthorized) as raised:
            service.submit(REQUEST)
        assert "; set NOTEGEN_API_KEY to a key of the note service" in one_line(raised.value)
        assert "secret" not in one_line(raised.value)


def test_the_retrieval_service_accepts_a_key_too(tmp_path: Path, file: Path) -> None:
    key = SecretStr(add_key(file, "clinic"))
    with retrieval_service(tmp_path / "store", keys_file=file) as url:
        with RetrievalService(url) as service, pytest.raises(Unauthorized, match="RETRIEVAL_API_KEY"):
            service.index_info()
        with RetrievalService(url, key=key) as service:
            assert service.index_info().items == 0


def test_the_command_line_names_the_missing_key_setting_in_one_line(tmp_path: Path, file: Path) -> None:
    key = add_key(file, "clinic")
    image = str(tmp_path / "image.png")
    Image.new("RGB", (32, 24), "red").save(image)
    with retrieval_service(tmp_path / "store", keys_file=file) as url:
        without, wrong, good = (
            CliRunner(env={"RETRIEVAL_URL": url, "RETRIEVAL_API_KEY": sent}).invoke(make_app(), ["search", image])
            for sent in ("", "dn_secret", key)
        )

    for failed in (without, wrong):
        assert failed.exit_code == 1
        assert failed.stderr.startswith("error: ")
        assert failed.stderr.count("\n") == 1
        assert "RETRIEVAL_API_KEY" in failed.stderr
        assert "secret" not in failed.output
    assert good.exit_code == 0, good.output


@pytest.mark.parametrize("spent", [problem(SPENT), problem(SPENT, **{"Retry-After": "0"})])
def test_a_rate_limited_key_is_retried(spent: Answer) -> None:
    with scripted_server(spent, spent, MODEL) as server, NoteService(server.url) as service:
        assert service.model() == SCRIPTED

    assert len(server.received) == 3


def test_a_rate_limit_beyond_the_patience_is_raised_with_its_delay() -> None:
    with (
        scripted_server(problem(SPENT, **{"Retry-After": "60"})) as server,
        NoteService(server.url, patience_s=5) as service,
        pytest.raises(TooManyRequests) as raised,
    ):
        service.model()

    assert raised.value.retry_after_s == 60
    assert len(server.received) == 1
