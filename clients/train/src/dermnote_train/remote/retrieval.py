"""Client of the retrieval service: one method per endpoint."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

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
from dermnote_train.remote.http import ServiceClient
from dermnote_train.remote.shards import NewItem, pack_shard


class RetrievalService(ServiceClient):
    """The retrieval service over HTTP."""

    service = "retrieval service"
    url_setting = "RETRIEVAL_URL"
    key_setting = "RETRIEVAL_API_KEY"

    def put_item(self, item: NewItem) -> Item:
        """Create or replace one item."""
        files = {} if item.image is None else {"image": (f"{item.item_id}.{item.suffix}", item.image)}
        fields = {name: v if isinstance(v, str) else json.dumps(v) for name, v in item.fields().items()}
        if item.note is not None:
            fields["note"] = item.note
        return self.call(Item, "PUT", f"/items/{quote(item.item_id)}", files=files, data=fields)

    def bulk(self, items: Sequence[NewItem]) -> list[BulkOutcome]:
        """Create or replace many items; one outcome per item, in order.

        If the service shuts down midway, the items that it did not process are sent again. Raises Stopping if two
        requests in a row store nothing.
        """
        outcomes: list[BulkOutcome] = []
        fruitless = 0
        while True:
            response = self.request(
                "POST",
                "/items/bulk",
                timeout_s=300.0,
                content=pack_shard(items[len(outcomes) :]),
                headers={"Content-Type": "application/x-tar"},
            )
            received = self.parse_lines(BulkOutcome, response.content)
            error = received[-1].error if received else None
            if error is None or error.code != Stopping.code:
                return outcomes + received
            outcomes += received[:-1]
            fruitless = 0 if len(received) > 1 else fruitless + 1
            if fruitless == 2:
                raise Stopping(error.detail)

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
        """Search by the content of an image file. `where`: metadata filter; `distinct`: one hit per note or group."""
        fields = {"k": str(k), "via": via}
        if where is not None:
            fields["filter"] = json.dumps(where)
        if exclude is not None:
            fields["exclude"] = exclude.model_dump_json()
        if distinct is not None:
            fields["distinct"] = distinct
        return self.call(SearchResponse, "POST", "/search", files={"image": ("query", image)}, data=fields)

    def search(self, request: SearchRequest) -> SearchResponse:
        """Search by text, vector or stored item."""
        return self.call(SearchResponse, "POST", "/search", body=request)

    def embed_texts(self, texts: Sequence[str]) -> EmbedResponse:
        """Unit vectors of up to 64 texts, from the active model."""
        return self.call(EmbedResponse, "POST", "/embed", body=EmbedRequest(texts=list(texts)))

    def embed_images(self, images: Sequence[bytes]) -> EmbedResponse:
        """Unit vectors of up to 64 image files, from the active model."""
        files = [("image", (str(number), image)) for number, image in enumerate(images)]
        return self.call(EmbedResponse, "POST", "/embed", files=files)

    def take_snapshot(self) -> Snapshot:
        """Create a snapshot of the store, kept by the service."""
        return self.call(Snapshot, "POST", "/index/snapshots", timeout_s=600.0)

    def snapshots(self) -> list[Snapshot]:
        """All snapshots, newest first."""
        return self.call(list[Snapshot], "GET", "/index/snapshots")

    def restore(self, snapshot_id: str) -> Snapshot:
        """Restore a snapshot; everything stored after it is lost."""
        return self.call(Snapshot, "POST", f"/index/snapshots/{quote(snapshot_id)}/restore", timeout_s=600.0)

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Delete a snapshot."""
        self.request("DELETE", f"/index/snapshots/{quote(snapshot_id)}")

    def get_item(self, item_id: str) -> Item:
        """A stored item."""
        return self.call(Item, "GET", f"/items/{quote(item_id)}")

    def delete(self, item_id: str) -> None:
        """Delete an item."""
        self.request("DELETE", f"/items/{quote(item_id)}")

    def index_info(self) -> IndexInfo:
        """Statistics of the index being served."""
        return self.call(IndexInfo, "GET", "/index")

    def models(self) -> list[ModelSummary]:
        """The model folders that the service can load."""
        return self.call(list[ModelSummary], "GET", "/models")

    def activate_model(self, name: str) -> None:
        """Switch to another encoder; the service re-embeds in the background (see wait_active)."""
        self.request("PUT", "/models/active", body=ActivateModel(name=name), timeout_s=120.0)

    def wait_active(
        self, name: str, *, model_id: str, timeout_s: float = 600.0, on_progress: Callable[[float], None] | None = None
    ) -> ModelSummary:
        """Block until the model passed to activate_model is active. Raises UserError on failure or timeout.

        `model_id` distinguishes the new weights from older ones of the same name; `on_progress` receives the
        re-embedded share, 0 to 1.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            model = next((model for model in self.models() if model.name == name), None)
            if model is None:
                raise UserError(
                    f"the retrieval service at {self.url} does not list the model {name}; check that its "
                    "RETRIEVAL_MODELS_DIR is the folder that the model was exported to"
                )
            if model.active and model.model_id == model_id:
                return model
            if model.reembedding is None:
                raise UserError(f"the retrieval service could not activate the model {name}; check its log")
            if on_progress is not None:
                on_progress(model.reembedding)
            time.sleep(0.2)
        raise UserError(
            f"the retrieval service at {self.url} did not activate {name} within {timeout_s:g} s; check its log"
        )
