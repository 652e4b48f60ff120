"""What an operator asks of the index, the store and the queues at this moment: the body of GET /index."""

import shutil

from dermnote_contracts.retrieval import IndexInfo, IndexRecall, RouteInfo, SnapshotsInfo, StoreInfo, Waiting
from dermnote_retrieval.encoder.batched import BatchedEncoder
from dermnote_retrieval.encoder.protocol import Encoder
from dermnote_retrieval.index.adaptive import AdaptiveIndex
from dermnote_retrieval.index.types import Recall
from dermnote_retrieval.service import Service


def index_info(service: Service) -> IndexInfo:
    """Figures of the index as it serves now."""
    serving = service.catalogue.serving
    manifest = serving.encoder.manifest
    return IndexInfo(
        items=service.items.count(),
        model=manifest.model_id,
        aligned=manifest.aligned,
        routes={route: _route(index) for route, index in serving.indexes.items()},
        store=StoreInfo(
            bytes=service.items.database.size(), free_bytes=shutil.disk_usage(service.settings.data_dir).free
        ),
        checkpoint_behind=service.checkpoint.behind(serving.model_id),
        snapshots=_snapshots(service),
        waiting=_waiting(service, serving.encoder),
    )


def _route(index: AdaptiveIndex) -> RouteInfo:
    return RouteInfo(
        kind=index.kind,
        dim=index.dim,
        vectors=len(index),
        memory_mib=index.bytes_ >> 20,
        recall=_recall(index.recall),
        building=index.building,
    )


def _recall(measured: Recall | None) -> IndexRecall | None:
    if measured is None:
        return None
    return IndexRecall(k=measured.k, queries=measured.queries, value=measured.value)


def _snapshots(service: Service) -> SnapshotsInfo:
    found = service.snapshots.all()
    return SnapshotsInfo(
        count=len(found),
        bytes=sum(snapshot.bytes for snapshot in found),
        newest_at=max((snapshot.created_at for snapshot in found), default=None),
    )


def _waiting(service: Service, encoder: Encoder) -> Waiting:
    images, texts = encoder.waiting() if isinstance(encoder, BatchedEncoder) else (0, 0)
    return Waiting(
        requests=service.workers.waiting(),
        loads=service.workers.waiting_loads(),
        images=images,
        texts=texts,
        searches=service.search.waiting(),
    )
