"""Request and response bodies of the retrieval service: items, searches, ranked hits."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from dermnote_contracts.problems import Problem

Via = Literal["fused", "notes", "images"]
Route = Literal["notes", "images"]
Encoding = Literal["float", "base64"]
Distinct = Literal["note", "group"]

ITEM_ID_PATTERN = r"^[A-Za-z0-9._-]{1,128}$"
MAX_K = 1000
MAX_VECTOR = 65_536
MAX_EMBEDDED = 64
"""Largest number of images or texts per call of POST /embed."""

ItemId = Annotated[str, Field(pattern=ITEM_ID_PATTERN)]
Group = Annotated[str, Field(min_length=1, max_length=256)]
Metadata = dict[str, Any]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Exclude(_Body):
    """Items and groups (patients, lesions) to leave out of the hits."""

    ids: list[str] = []
    groups: list[str] = []


class SearchRequest(_Body):
    """A JSON search: exactly one of `text`, `vector`, `item_id`. Images are sent as a multipart form instead."""

    text: str | None = Field(default=None, min_length=1, max_length=10_000)
    vector: list[float] | None = Field(default=None, min_length=1, max_length=MAX_VECTOR)
    item_id: ItemId | None = None
    k: int = Field(default=10, ge=1, le=MAX_K)
    via: Via = "fused"
    filter: dict[str, Any] | None = None
    exclude: Exclude = Exclude()
    distinct: Distinct | None = None


class EmbedRequest(_Body):
    """Texts to embed. Images are sent as a multipart form. `encoding`: lists of numbers, or base64 of float32."""

    texts: list[Annotated[str, Field(min_length=1, max_length=20_000)]] = Field(min_length=1, max_length=MAX_EMBEDDED)
    encoding: Encoding = "float"


class EmbedResponse(BaseModel):
    """One unit vector per input, in input order: [dim] numbers, or base64 of little-endian float32."""

    model: str
    dim: int
    vectors: list[list[float] | str]
    took_ms: float


class Hit(BaseModel):
    """A retrieved item. `rank` counts from 1; `ranks`: its rank in each route that was searched.

    `score`: cosine similarity for a single route, the reciprocal-rank sum (Cormack et al. 2009, k = 60) for fused.
    `image`: a link to the thumbnail, relative to the service, or null. `duplicate_of`: the id of a better hit with an
    equal note or a near-duplicate image. `folded`: number of hits that `distinct` merged into this one.
    """

    id: str
    score: float
    rank: int
    ranks: dict[Route, int]
    note: str | None
    metadata: Metadata
    group: str | None
    image: str | None
    duplicate_of: str | None = None
    folded: int = 0


class SearchResponse(BaseModel):
    """Ranked hits. `routes`: the routes that were searched (fused uses only images while towers are not aligned)."""

    hits: list[Hit]
    model: str
    routes: list[Route]
    took_ms: float
    timings_ms: dict[str, float] = {}


class Item(BaseModel):
    """A stored item, without its vectors."""

    id: str
    note: str | None
    metadata: Metadata
    group: str | None
    image: str | None
    routes: list[Route]


class ItemPage(BaseModel):
    """A page of items in id order; `next_cursor` is null on the last page."""

    items: list[Item]
    next_cursor: str | None


class BulkOutcome(BaseModel):
    """The outcome of one record of a bulk load; the response has one per line, in the records' order.

    `unchanged`: the stored item was identical, so nothing was encoded or written.
    """

    id: str
    status: Literal["created", "updated", "unchanged", "failed"]
    error: Problem | None = None


class IndexRecall(BaseModel):
    """Share of the `k` exact nearest neighbours that the index finds, for `queries` of its own vectors."""

    k: int
    queries: int
    value: float


class RouteInfo(BaseModel):
    """Index of one route: kind, vector width, count and memory; `recall` is null if it is exact (flat).

    `building`: an approximate index is being built in the background.
    """

    kind: str
    dim: int
    vectors: int
    memory_mib: int = 0
    recall: IndexRecall | None = None
    building: bool = False


class StoreInfo(BaseModel):
    """Bytes of the store's files, and free bytes on their disk."""

    bytes: int
    free_bytes: int


class SnapshotsInfo(BaseModel):
    """Number and bytes of the existing snapshots, and when the newest was taken."""

    count: int
    bytes: int
    newest_at: AwareDatetime | None


class Waiting(BaseModel):
    """Queue lengths: requests and loads wait for a thread, images and texts for the encoder, searches for the index."""

    requests: int
    loads: int
    images: int
    texts: int
    searches: int


class IndexInfo(BaseModel):
    """State of the current index. `checkpoint_behind` is always 0: earlier versions stored the index on disk."""

    items: int
    model: str
    aligned: bool
    routes: dict[Route, RouteInfo]
    store: StoreInfo | None = None
    checkpoint_behind: int = 0
    snapshots: SnapshotsInfo | None = None
    waiting: Waiting | None = None


class Snapshot(BaseModel):
    """A consistent copy of the store. `sha256` and `bytes` describe its file; `vectors`: vectors per route."""

    id: ItemId
    created_at: AwareDatetime
    items: int
    vectors: dict[Route, int]
    model: str | None
    model_id: str | None
    bytes: int
    sha256: str


class ModelSummary(BaseModel):
    """A model folder in the service; `reembedding`: completed share of a re-embedding, 0 to 1, or null."""

    name: str
    model_id: str
    aligned: bool
    active: bool
    reembedding: float | None = None


class ActivateModel(_Body):
    """`name`: name of a model folder in RETRIEVAL_MODELS_DIR."""

    name: Annotated[str, Field(pattern=ITEM_ID_PATTERN)]
