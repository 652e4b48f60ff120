"""The retrieval service's HTTP bodies: items in, ranked hits out."""

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
"""Images or texts of one call of POST /embed, at most."""

ItemId = Annotated[str, Field(pattern=ITEM_ID_PATTERN)]
Group = Annotated[str, Field(min_length=1, max_length=256)]
Metadata = dict[str, Any]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Exclude(_Body):
    """Items and groups (patients, lesions) that must not come back."""

    ids: list[str] = []
    groups: list[str] = []


class SearchRequest(_Body):
    """A JSON search: exactly one of `text`, `vector`, `item_id`. An image comes as multipart form instead."""

    text: str | None = Field(default=None, min_length=1, max_length=10_000)
    vector: list[float] | None = Field(default=None, min_length=1, max_length=MAX_VECTOR)
    item_id: ItemId | None = None
    k: int = Field(default=10, ge=1, le=MAX_K)
    via: Via = "fused"
    filter: dict[str, Any] | None = None
    exclude: Exclude = Exclude()
    distinct: Distinct | None = None


class EmbedRequest(_Body):
    """Texts to vectors. Images come as multipart form instead. `encoding`: lists of numbers, or base64 of float32."""

    texts: list[Annotated[str, Field(min_length=1, max_length=20_000)]] = Field(min_length=1, max_length=MAX_EMBEDDED)
    encoding: Encoding = "float"


class EmbedResponse(BaseModel):
    """One vector of length 1 an input, in their order: [dim] numbers, or base64 of little-endian float32."""

    model: str
    dim: int
    vectors: list[list[float] | str]
    took_ms: float


class Hit(BaseModel):
    """One item found. `rank` counts from 1; `ranks` holds its rank by each route that was searched.

    `score`: cosine similarity for a single route, the reciprocal-rank sum (Cormack et al. 2009, k = 60) for fused.
    `image`: a link to the thumbnail, relative to the service, or null. `duplicate_of`: the id of a better hit that says
    (equal note) or shows (near-duplicate picture) the same. `folded`: hits left out for it under `distinct`.
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
    """Ranked hits. `routes`: the routes really searched (fused uses images alone while towers are not aligned)."""

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
    """A page of items in id order; `next_cursor` is null on the last."""

    items: list[Item]
    next_cursor: str | None


class BulkOutcome(BaseModel):
    """What became of one record of a bulk load; the answer is one of these a line, in the records' order.

    `unchanged`: the store held just that, so nothing was encoded or written.
    """

    id: str
    status: Literal["created", "updated", "unchanged", "failed"]
    error: Problem | None = None


class IndexRecall(BaseModel):
    """Share of the `k` exact nearest that the index finds, over `queries` of its own vectors."""

    k: int
    queries: int
    value: float


class RouteInfo(BaseModel):
    """One route's index: its kind, vector width, count and memory; `recall` is null where it is exact (flat).

    `building`: lists are being made beside it.
    """

    kind: str
    dim: int
    vectors: int
    memory_mib: int = 0
    recall: IndexRecall | None = None
    building: bool = False


class StoreInfo(BaseModel):
    """Bytes of the store's files, and those that are free on their disk."""

    bytes: int
    free_bytes: int


class SnapshotsInfo(BaseModel):
    """The snapshots that are kept, the bytes of their stores, and when the newest was taken."""

    count: int
    bytes: int
    newest_at: AwareDatetime | None


class Waiting(BaseModel):
    """What waits for its turn: requests and bulk loads for a thread, images and texts for the encoder, searches."""

    requests: int
    loads: int
    images: int
    texts: int
    searches: int


class IndexInfo(BaseModel):
    """Figures of the index as it serves now. `checkpoint_behind`: writes that a start after a crash would replay."""

    items: int
    model: str
    aligned: bool
    routes: dict[Route, RouteInfo]
    store: StoreInfo | None = None
    checkpoint_behind: int = 0
    snapshots: SnapshotsInfo | None = None
    waiting: Waiting | None = None


class Snapshot(BaseModel):
    """A consistent copy of the store. `sha256` and `bytes` are its file's; `vectors` counts those of its model."""

    id: ItemId
    created_at: AwareDatetime
    items: int
    vectors: dict[Route, int]
    model: str | None
    model_id: str | None
    bytes: int
    sha256: str


class ModelSummary(BaseModel):
    """A model folder as the service sees it; `reembedding` is the share done, 0 to 1, or null."""

    name: str
    model_id: str
    aligned: bool
    active: bool
    reembedding: float | None = None


class ActivateModel(_Body):
    """`name`: a folder's name in the service's model folder."""

    name: Annotated[str, Field(pattern=ITEM_ID_PATTERN)]
