"""Every kind of invalid input ends in a 4xx problem that names the error and its location, never in a 500."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FORM = {"content-type": "multipart/form-data; boundary=B"}
JSON = {"content-type": "application/json"}


def part(name: str, value: bytes, *, filename: str | None = None, more: str = "") -> bytes:
    file = f'; filename="{filename}"' if filename is not None else ""
    return f'--B\r\nContent-Disposition: form-data; name="{name}"{file}\r\n{more}\r\n'.encode() + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--B--\r\n"


BAD_FORMS = {
    "empty": b"",
    "no parts": form(),
    "never closed": part("note", b"x"),
    "no boundary inside": b"just text",
    "unknown field": form(part("text", b"x")),
    "given twice": form(part("note", b"x"), part("note", b"y")),
    "two images": form(part("image", b"x", filename="a"), part("image", b"y", filename="b")),
    "image as text": form(part("image", b"x")),
    "note as file": form(part("note", b"x", filename="note.txt")),
    "metadata not JSON": form(part("metadata", b"{age: 5}")),
    "metadata no object": form(part("metadata", b"[1]")),
    "metadata NaN": form(part("metadata", b'{"x": NaN}')),
    "metadata infinite": form(part("metadata", b'{"x": 1e999}')),
    "metadata surrogate": form(part("metadata", b'{"x": "\\ud800"}')),
    "metadata deep": form(part("metadata", b"[" * 100_000)),
    "metadata huge number": form(part("metadata", b'{"x": ' + b"9" * 5000 + b"}")),
    "NUL in note": form(part("note", b"a\0b")),
    "NUL in group": form(part("group", b"a\0b")),
    "long note": form(part("note", b"x" * 30_000)),
    "long group": form(part("group", b"x" * 300)),
    "zero bytes of image": form(part("image", b"", filename="a.jpg")),
    "no name": b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--\r\n",
    "no disposition": b"--B\r\n\r\nx\r\n--B--\r\n",
    "broken header": b"--B\r\n\xff\xfe: \x00\r\n\r\nx\r\n--B--\r\n",
    "too many parts": form(*[part("note", b"x")] * 40),
    "big field": form(part("note", b"x" * 3_000_000)),
}


@pytest.mark.parametrize("name", BAD_FORMS)
def test_bad_item_forms(client: Any, name: str) -> None:
    answer = client.put("/items/a", content=BAD_FORMS[name], headers=FORM)

    assert answer.status_code in (413, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert client.get("/items/a").status_code == 404


@pytest.mark.parametrize(
    ("charset", "note"), [("utf-7", b"+2AA-"), ("utf-16", b"\x00\xd8"), ("no-such-charset", b"x\xff"), ("rot13", b"x")]
)
def test_strange_charsets(client: Any, charset: str, note: bytes) -> None:
    headers = {"content-type": f"multipart/form-data; boundary=B; charset={charset}"}
    answer = client.put("/items/a", content=form(part("note", note)), headers=headers)

    assert answer.status_code < 500
    assert client.get("/items").status_code == 200


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/json", "image/jpeg", "multipart/form-data", "multipart/mixed; boundary=B"],
)
def test_other_content_types(client: Any, content_type: str) -> None:
    answer = client.put("/items/a", content=b"x", headers={"content-type": content_type})

    assert answer.status_code in (415, 422)
    assert client.post("/search", content=b"x", headers={"content-type": content_type}).status_code in (415, 422)


BAD_SEARCHES = {
    "empty": b"",
    "no JSON": b"{text: x}",
    "no object": b"[]",
    "an empty object": b"{}",
    "two at once": b'{"text": "x", "item_id": "a"}',
    "empty text": b'{"text": ""}',
    "blank text": b'{"text": " \\n"}',
    "long text": b'{"text": "' + b"x" * 20_000 + b'"}',
    "k zero": b'{"text": "x", "k": 0}',
    "k too large": b'{"text": "x", "k": 1001}',
    "k no number": b'{"text": "x", "k": "many"}',
    "via unknown": b'{"text": "x", "via": "words"}',
    "unknown field": b'{"text": "x", "limit": 3}',
    "surrogate field": b'{"text": "x", "\\ud800": 3}',
    "surrogate text": b'{"text": "\\ud800"}',
    "bad id": b'{"item_id": "a b"}',
    "filter no object": b'{"text": "x", "filter": []}',
    "filter deep": b'{"text": "x", "filter": ' + b'{"not":' * 150 + b"{}" + b"}" * 151,
    "exclude unknown": b'{"text": "x", "exclude": {"names": []}}',
    "exclude no list": b'{"text": "x", "exclude": {"ids": "a"}}',
    "vector of text": b'{"vector": "1,2"}',
    "not UTF-8": b'{"text": "\xff"}',
}


@pytest.mark.parametrize("name", BAD_SEARCHES)
def test_bad_searches(client: Any, name: str) -> None:
    answer = client.post("/search", content=BAD_SEARCHES[name], headers=JSON)

    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    "fields",
    [{"k": "0"}, {"k": "x"}, {"via": "up"}, {"filter": "{"}, {"filter": "[]"}, {"exclude": "[1]"}, {"note": "x"}],
)
def test_bad_image_search_fields(client: Any, paint: Any, fields: dict[str, str]) -> None:
    answer = client.post("/search", files={"image": paint()}, data=fields)

    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_an_image_search_needs_an_image(client: Any) -> None:
    answer = client.post("/search", data={"k": "3"})

    assert (answer.status_code, "no file named image" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=a%20b", "cursor="])
def test_bad_listing(client: Any, query: str) -> None:
    answer = client.get(f"/items?{query}")

    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/items/a", 405),
        ("GET", "/search", 405),
        ("DELETE", "/items", 405),
        ("PATCH", "/index", 405),
    ],
)
def test_wrong_paths_and_methods(client: Any, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}])
def test_other_hosts_and_origins_are_rejected(client: Any, headers: dict[str, str]) -> None:
    answer = client.get("/items", headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_other_hosts_are_served_without_authentication_if_allowed(serve: Any) -> None:
    assert serve(allow_unauthenticated=True).get("/items", headers={"host": "retrieval"}).status_code == 200


def test_an_error_never_repeats_the_value(client: Any) -> None:
    answer = client.put("/items/a", content=form(part("metadata", b'{"diagnosis": "Jane Doe"}')), headers=FORM)

    assert answer.status_code == 422
    assert "Jane" not in answer.text


def test_many_exclusions_are_accepted(client: Any, put: Any) -> None:
    put(client, "a", note="n")
    exclude = {"ids": [f"x{n}" for n in range(50_000)], "groups": ["\0", "a\0"]}

    assert len(client.post("/search", json={"text": "n", "exclude": exclude}).json()["hits"]) == 1


def test_a_full_disk_is_507_and_reads_continue(client: Any, put: Any) -> None:
    put(client, "a", note="n")
    with client.app.state.service.items.database.transaction() as connection:
        pages = connection.execute("pragma page_count").fetchone()[0]
    connection.execute(f"pragma max_page_count = {pages}")

    answer = client.put("/items/b", data={"note": "x" * 19_000})
    assert (answer.status_code, answer.json()["code"]) == (507, "insufficient-storage")
    assert client.get("/items/a").status_code == 200
    assert client.get("/health/ready").status_code == 200
    connection.execute("pragma max_page_count = 1000000")
    assert client.put("/items/b", data={"note": "x" * 19_000}).status_code == 201


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metadata=st.dictionaries(st.text(max_size=6), json_values, max_size=4),
    spec=st.dictionaries(st.text(max_size=6), json_values, max_size=3),
)
def test_any_metadata_and_any_filter_is_accepted_or_rejected(client: Any, metadata: Any, spec: Any) -> None:
    import json  # noqa: PLC0415

    body = form(part("note", b"n"), part("metadata", json.dumps(metadata).encode()))
    answer = client.put("/items/a", content=body, headers=FORM)
    assert answer.status_code in (200, 201, 422), answer.text
    if answer.status_code != 422:
        assert client.get("/items/a").json()["metadata"] == {k: v for k, v in metadata.items() if k not in KNOWN} | {
            k: v for k, v in answer.json()["metadata"].items() if k in KNOWN
        }
    assert client.post("/search", json={"text": "n", "filter": spec}).status_code in (200, 422)


KNOWN = {"age", "sex", "site"}


def test_metrics_and_documents_do_not_name_items(client: Any, put: Any) -> None:
    put(client, "secret-id", note="n", group="secret-group")
    client.get("/items/secret-id")
    client.post("/search", json={"text": "secret words"})

    metrics = client.get("/metrics").text
    assert "secret" not in metrics
    assert "dermnote_retrieval_items 1.0" in metrics
    assert 'dermnote_retrieval_search_step_seconds_count{step="search"} 1.0' in metrics
    assert client.get("/docs").status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/search", "/items/{item_id}", "/items/bulk", "/index", "/models/active"} <= set(paths)
