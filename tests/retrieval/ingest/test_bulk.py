"""Bulk loads: valid and invalid records, broken streams, hostile tars."""

import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from dermnote_contracts.problems import InvalidRequest
from dermnote_imaging.decoder import Decoder, ImageLimits
from dermnote_retrieval.ingest.bulk import read_ndjson, read_tar
from dermnote_retrieval.ingest.writer import RejectedRecord

TAR = {"content-type": "application/x-tar"}
NDJSON = {"content-type": "application/x-ndjson"}
DECODER = Decoder(ImageLimits(max_bytes=100_000, max_pixels=1_000_000, bound_px=256), concurrency=1)


def tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def outcomes(answer: Any) -> list[tuple[str, str]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    return [(line["id"], line["status"]) for line in lines]


def pieces(data: bytes, size: int = 777) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def test_valid_and_invalid_records_in_one_tar(client: Any, put: Any, paint: Any) -> None:
    put(client, "b", note="old")
    data = tar(
        ("./a.png", paint("red")),
        ("./a.txt", "rötlich".encode()),
        ("./a.json", json.dumps({"metadata": {"dx": 1, "age": 50}, "group": "p"}).encode()),
        ("b.jpg", paint("blue", form="JPEG")),
        ("c.jpg", b"no image"),
        ("c.txt", b"note of c"),
        ("d.txt", b"\xff\xfe"),
        ("e.json", b'{"metadata": {"age": 500}}'),
        ("f.json", b"{not json"),
        ("g.json", b'{"id": "named", "metadata": {"own": true}}'),
        ("h.seg", b"x"),
        ("i.txt", b"one"),
        ("i.txt", b"two"),
        ("j.jpg", paint()),
        ("j.png", paint()),
        ("sub/k.txt", b"in a folder"),
        ("sub/l.json", b'{"id": "l"}'),
        ("sub/l.txt", b"in a folder, with an id"),
        ("m.txt", b"last"),
    )
    answer = client.post("/items/bulk", content=data, headers=TAR)

    assert outcomes(answer) == [
        ("a", "created"),
        ("b", "updated"),
        ("c", "failed"),
        ("d", "failed"),
        ("e", "failed"),
        ("f", "failed"),
        ("named", "created"),
        ("h", "failed"),
        ("i", "failed"),
        ("j", "failed"),
        ("sub/k", "failed"),
        ("l", "created"),
        ("m", "created"),
    ]
    errors = {line["id"]: line["error"] for line in map(json.loads, answer.text.splitlines()) if "error" in line}
    assert errors["c"]["code"] == "image-refused"
    assert errors["e"]["errors"][0]["field"] == "age"
    assert client.get("/items/a").json()["note"] == "rötlich"
    assert client.get("/items/a").json()["group"] == "p"
    assert client.get("/items/b").json()["note"] is None
    assert client.get("/index").json()["items"] == 5
    assert client.get("/health/ready").status_code == 200


def test_ndjson_records(client: Any) -> None:
    lines = [
        '{"id": "a", "note": "red", "metadata": {"age": 3}, "group": "g"}',
        "",
        '{"id": "a", "note": "again"}',
        '{"id": "b c", "note": "x"}',
        '{"note": "no id"}',
        '{"id": "d"}',
        "[1]",
        '{"id": "e", "note": "x", "image": "y"}',
        '{"id": "f", "note": "\\ud800"}',
        '{"id": "g", "note": "last"}',
    ]
    answer = client.post("/items/bulk", content="\n".join(lines), headers=NDJSON)

    assert outcomes(answer) == [
        ("a", "created"),
        ("a", "updated"),
        ("b c", "failed"),
        ("", "failed"),
        ("d", "failed"),
        ("", "failed"),
        ("e", "failed"),
        ("", "failed"),
        ("g", "created"),
    ]
    assert client.get("/items/a").json()["note"] == "again"


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_loads_longer_than_a_chunk_keep_their_order(serve: Any, chunk: int) -> None:
    client = serve(bulk_chunk_items=chunk)
    lines = [json.dumps({"id": f"i{n % 40}", "note": f"note {n}"} if n % 9 else {"id": "?"}) for n in range(150)]
    answer = client.post("/items/bulk", content="\n".join(lines), headers=NDJSON)

    assert [status == "failed" for _, status in outcomes(answer)] == [n % 9 == 0 for n in range(150)]
    index = client.get("/index").json()
    assert index["items"] == index["routes"]["notes"]["vectors"] == 40
    hits = client.post("/search", json={"text": "note 149", "k": 1}).json()["hits"]
    assert hits[0]["id"] == "i29"


def test_a_later_record_without_image_removes_it(client: Any, paint: Any) -> None:
    data = tar(("a.png", paint()), ("x.txt", b"between"), ("a.txt", b"now without an image"))

    assert outcomes(client.post("/items/bulk", content=data, headers=TAR))[2] == ("a", "updated")
    routes = client.get("/index").json()["routes"]
    assert (routes["images"]["vectors"], routes["notes"]["vectors"]) == (0, 2)


@pytest.mark.parametrize(
    "body", [b"", b"no tar at all", b"\x1f\x8b" + b"\0" * 600, b"x" * 2000], ids=["empty", "text", "gzip", "long"]
)
def test_a_body_that_is_not_a_tar_is_422(client: Any, body: bytes) -> None:
    answer = client.post("/items/bulk", content=body, headers=TAR)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")


def test_an_empty_tar_has_no_outcomes(client: Any) -> None:
    assert outcomes(client.post("/items/bulk", content=tar(), headers=TAR)) == []


def test_another_content_type_is_415(client: Any) -> None:
    assert client.post("/items/bulk", content=b"{}", headers={"content-type": "application/json"}).status_code == 415


def test_complete_records_of_a_truncated_tar_are_stored(client: Any, paint: Any) -> None:
    data = tar(("a.txt", b"first"), ("b.txt", b"second"), ("c.png", paint(size=(200, 200)) * 20))
    answer = client.post("/items/bulk", content=data[:3000], headers=TAR)

    assert outcomes(answer) == [("a", "created"), ("b", "failed")]
    assert "ends early" in answer.text
    assert client.get("/items/b").status_code == 404


def test_a_member_over_its_limit_is_skipped(serve: Any, paint: Any) -> None:
    client = serve(max_upload_bytes=1000)
    data = tar(("a.jpg", b"x" * 5_000_000), ("a.txt", b"note"), ("b.txt", b"y" * 2_000_000), ("c.png", paint()))

    answer = client.post("/items/bulk", content=data, headers=TAR)
    assert outcomes(answer) == [("a", "failed"), ("b", "failed"), ("c", "created")]
    assert answer.text.count("too-large") >= 2


def test_links_and_devices_are_rejected(client: Any) -> None:
    def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        return info

    data = tar(
        special("dir", tarfile.DIRTYPE),
        special("a.txt", tarfile.SYMTYPE, "/etc/passwd"),
        special("b.txt", tarfile.LNKTYPE, "/etc/passwd"),
        special("c.txt", tarfile.CHRTYPE),
        ("../../d.txt", b"up"),
        ("/e.txt", b"absolute"),
    )
    reported = outcomes(client.post("/items/bulk", content=data, headers=TAR))
    assert [status for _, status in reported] == ["failed"] * 5


def test_a_header_of_gigabytes_is_rejected() -> None:
    pax = tarfile.TarInfo("pax")
    pax.type, pax.size = tarfile.XHDTYPE, 8_000_000_000
    endless = iter([pax.tobuf(), *[b"0" * 65536] * 40])

    with pytest.raises(Exception, match=r"too large|not an uncompressed tar|too long"):
        list(read_tar(endless, decoder=DECODER))
    assert next(endless, None) is not None  # it stopped reading long before the end


def test_any_damage_to_a_tar_is_an_outcome_or_an_error() -> None:
    whole = tar(("a.txt", b"one"), ("b.json", b'{"id": "x", "metadata": {"age": 1}}'), ("c.txt", b"three"))
    for place in range(0, 3 * 1024, 5):
        for byte in (0, 0x80, 0xFF, ord("7")):
            data = bytearray(whole)
            data[place] = byte
            try:
                records = list(read_tar(pieces(bytes(data)), decoder=DECODER))
            except InvalidRequest:
                continue
            assert len(records) <= 4


def test_long_lines_are_skipped() -> None:
    data = b'{"id": "a", "note": "1"}\n' + b"x" * 3_000_000 + b'\n{"id": "b", "note": "2"}'
    records = list(read_ndjson(pieces(data, 65536), decoder=DECODER))

    assert [isinstance(record, RejectedRecord) for record in records] == [False, True, False]
    assert [record.id for record in records] == ["a", "", "b"]


def test_keys_that_are_not_unicode_can_be_reported(client: Any) -> None:
    data = bytearray(tar(("abc.txt", b"x")))
    info = tarfile.TarInfo.frombuf(bytes(data[:512]), "utf-8", "surrogateescape")
    info.name = "\udcff\udcfe.txt"
    data[:512] = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")

    assert outcomes(client.post("/items/bulk", content=bytes(data), headers=TAR)) == [("??", "failed")]
