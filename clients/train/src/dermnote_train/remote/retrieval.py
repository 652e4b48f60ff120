"""The retrieval service's client: one method an endpoint."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Self
from urllib.parse import quote

from pydantic import SecretStr

from dermnote_contracts.notes import Health
from dermnote_contracts.problems import Stopping
from dermnote_contracts.retrieval import (
    ActivateModel,
    BulkOutcome,
    Distinct,
    EmbedRequest,
    EmbedResponse,
    Exclude,
    IndexInfo,
    Item,
    ModelSummary,
    SearchRequest,
    SearchResponse,
    Snapshot,
    Via,
)
from dermnote_train.errors import UserError
from dermnote_train.remote.http import Session
from dermnote_train.remote.shards import NewItem, tar_of


class RetrievalService:
    """The index over HTTP. Every method may raise DermnoteError, as the service did, or UserError when it is down."""

    def __init__(self, url: str, *, key: SecretStr | None = None, patience_s: float = 60.0) -> None:
        self._session = Session(
            url,
            service="retrieval service",
            variable="RETRIEVAL_URL",
            key_variable="RETRIEVAL_API_KEY",
            key=key,
            patience_s=patience_s,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def put_item(self, item: NewItem) -> Item:
        """Store or replace one item."""
        files = {} if item.image is None else {"image": (f"{item.item_id}.{item.suffix}", item.image)}
        given = {name: v if isinstance(v, str) else json.dumps(v) for name, v in item.given().items()}
        fields = given if item.note is None else given | {"note": item.note}
        response = self._session.request("PUT", f"/items/{quote(item.item_id)}", files=files, data=fields)
        return self._session.parse(Item, response.content)

    def bulk(self, items: Sequence[NewItem]) -> list[BulkOutcome]:
        """Store or replace many items; one outcome an item, in their order.

        A service that stops in the middle is waited for, and gets what it had not taken again. Raises Stopping where it
        takes nothing twice in a row.
        """
        outcomes: list[BulkOutcome] = []
        vain = 0
        while True:
            answered = self._bulk(items[len(outcomes) :])
            stopping = answered[-1].error if answered else None
            if stopping is None or stopping.code != Stopping.code:
                return outcomes + answered
            outcomes += answered[:-1]
            vain = 0 if len(answered) > 1 else vain + 1
            if vain == 2:
                raise Stopping(stopping.detail)

    def _bulk(self, items: Sequence[NewItem]) -> list[BulkOutcome]:
        response = self._session.request(
            "POST",
            "/items/bulk",
            timeout_s=300.0,
            content=tar_of(items),
            headers={"Content-Type": "application/x-tar"},
        )
        return self._session.parse_lines(BulkOutcome, response.content)

    def search_image(
        self,
        image: bytes,
        *,
        k: int = 10,
        via: Via = "fused",
        where: dict[str, Any] | None = None,
        exclude: Exclude | None = None,
        distinct: Distinct | None = None,
    ) -> SearchResponse:
        """Search by a picture's file content. `where`: the metadata filter; `distinct`: each note or group once."""
        fields = {"k": str(k), "via": via}
        if where is not None:
            fields["filter"] = json.dumps(where)
        if exclude is not None:
            fields["exclude"] = exclude.model_dump_json()
        if distinct is not None:
            fields["distinct"] = distinct
        response = self._session.request("POST", "/search", files={"image": ("query", image)}, data=fields)
        return self._session.parse(SearchResponse, response.content)

    def search(self, request: SearchRequest) -> SearchResponse:
        """Search by text, vector or a stored item."""
        body = request.model_dump_json(exclude_none=True)
        headers = {"Content-Type": "application/json"}
        return self._session.parse(
            SearchResponse, self._session.request("POST", "/search", content=body, headers=headers).content
        )

    def embed_texts(self, texts: Sequence[str]) -> EmbedResponse:
        """The served model's vectors of up to 64 texts, each of length 1."""
        body = EmbedRequest(texts=list(texts)).model_dump_json()
        headers = {"Content-Type": "application/json"}
        return self._session.parse(
            EmbedResponse, self._session.request("POST", "/embed", content=body, headers=headers).content
        )

    def embed_images(self, images: Sequence[bytes]) -> EmbedResponse:
        """The served model's vectors of up to 64 pictures' file contents, each of length 1."""
        files = [("image", (str(number), image)) for number, image in enumerate(images)]
        return self._session.parse(EmbedResponse, self._session.request("POST", "/embed", files=files).content)

    def take_snapshot(self) -> Snapshot:
        """A copy of the store as it is at one moment, kept by the service."""
        response = self._session.request("POST", "/index/snapshots", timeout_s=600.0)
        return self._session.parse(Snapshot, response.content)

    def snapshots(self) -> list[Snapshot]:
        """The copies that the service keeps, the newest first."""
        return self._session.get_list(Snapshot, "/index/snapshots")

    def restore(self, snapshot_id: str) -> Snapshot:
        """Go back to a copy: what was stored since is gone."""
        path = f"/index/snapshots/{quote(snapshot_id)}/restore"
        return self._session.parse(Snapshot, self._session.request("POST", path, timeout_s=600.0).content)

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Erase a copy."""
        self._session.request("DELETE", f"/index/snapshots/{quote(snapshot_id)}")

    def get_item(self, item_id: str) -> Item:
        """A stored item."""
        return self._session.get(Item, f"/items/{quote(item_id)}")

    def delete(self, item_id: str) -> None:
        """Remove an item."""
        self._session.request("DELETE", f"/items/{quote(item_id)}")

    def index_info(self) -> IndexInfo:
        """Figures of the index as it serves now."""
        return self._session.get(IndexInfo, "/index")

    def models(self) -> list[ModelSummary]:
        """The model folders that the service sees."""
        return self._session.get_list(ModelSummary, "/models")

    def activate_model(self, name: str) -> None:
        """Ask for another encoder; the service re-embeds in the background (see wait_active)."""
        body = ActivateModel(name=name).model_dump_json()
        headers = {"Content-Type": "application/json"}
        self._session.request("PUT", "/models/active", timeout_s=120.0, content=body, headers=headers)

    def wait_active(
        self, name: str, *, model_id: str, timeout_s: float = 600.0, told: Callable[[float], None] | None = None
    ) -> ModelSummary:
        """After activate_model: return once the model serves; UserError when the move failed or is late.

        `model_id` tells the new weights from older ones of the same name; `told` hears the share re-embedded, 0 to 1.
        """
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            found = next((model for model in self.models() if model.name == name), None)
            if found is None:
                raise UserError(f"the retrieval service at {self._session.base_url} does not see the model {name}")
            if found.active and found.model_id == model_id:
                return found
            if found.reembedding is None:
                raise UserError(f"the retrieval service gave up on the model {name}; its log says why")
            if told is not None:
                told(found.reembedding)
            time.sleep(0.2)
        raise UserError(
            f"the retrieval service at {self._session.base_url} did not swap in {name} within {timeout_s:g} s; see "
            "its log"
        )

    def health(self) -> Health:
        """Readiness; "unavailable" with the failing checks is an answer too."""
        return self._session.health()

    def require_ready(self) -> None:
        """Raise UserError unless the index can be used now."""
        self._session.require_ready()
