"""Uploaded images over HTTP: hostile ones are rejected, and no metadata is served."""

from typing import Any

import pytest

from tests.imaging.samples import HOSTILE, encoded, exif_turned, noise


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_uploads_are_rejected_and_nothing_is_stored(client: Any, name: str) -> None:
    files = {"image": ("lesion.jpg", HOSTILE[name], "image/jpeg")}

    for answer in (client.put("/items/a", files=files), client.post("/search", files=files)):
        assert (answer.status_code, answer.json()["code"]) == (422, "image-refused"), answer.text
    assert client.get("/items/a").status_code == 404


def test_the_setting_limits_the_pixels_of_an_upload(serve: Any, paint: Any) -> None:
    client = serve(max_pixels=10_000)

    assert client.put("/items/a", files={"image": paint(size=(100, 100))}).status_code == 201
    answer = client.put("/items/b", files={"image": paint(size=(101, 100))})
    assert (answer.status_code, "10000 pixels" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_the_thumbnail_has_no_exif(client: Any, form: str) -> None:
    client.put("/items/a", files={"image": encoded(noise(), form, exif=exif_turned())})

    assert b"patient name" not in client.get("/items/a/image").content


def test_an_image_of_one_pixel_can_be_stored_and_found(client: Any, put: Any, paint: Any) -> None:
    put(client, "dot", image=paint(size=(1, 1)))
    put(client, "line", image=paint(size=(3000, 1)))

    hits = client.post("/search", files={"image": paint(size=(1, 1))}).json()["hits"]
    assert {hit["id"] for hit in hits} == {"dot", "line"}
