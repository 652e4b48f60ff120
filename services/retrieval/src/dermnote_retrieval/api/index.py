"""Operators' endpoints: health, the state of the index, and snapshots of the store."""

import shutil

from fastapi import APIRouter, Request, Response

from dermnote_contracts.notes import Health
from dermnote_contracts.problems import Stopping
from dermnote_contracts.retrieval import (
    IndexInfo,
    ItemId,
    RouteInfo,
    Snapshot,
    SnapshotsInfo,
    StoreInfo,
    Waiting,
)
from dermnote_retrieval.api.forms import ServiceDep
from dermnote_retrieval.encoder.base import BatchedEncoder, Encoder
from dermnote_retrieval.index.adaptive import AdaptiveIndex
from dermnote_retrieval.service import Service

router = APIRouter()
health = APIRouter(prefix="/health", tags=["service"])


@health.get("/live")
async def live() -> Health:
    """The process answers."""
    return Health(status="ok")


@health.get("/ready", responses={503: {"model": Health}})
def ready(request: Request, response: Response, service: ServiceDep) -> Health:
    """The store is open, the encoder is loaded, and store and index hold the same number of vectors; else 503.

    Also 503 as soon as the process starts to shut down.
    """
    if request.app.state.shutdown.begun:
        response.status_code = 503
        return Health(status="unavailable", checks={"serving": Stopping.code})
    consistent = service.writer.consistent()
    response.status_code = 200 if consistent else 503
    checks = {"store": "ok", "encoder": "ok", "index": "ok" if consistent else "differs from the store"}
    return Health(status="ok" if consistent else "unavailable", checks=checks)


@router.get("/index", tags=["models"])
def get_index(service: ServiceDep) -> IndexInfo:
    """The present state of the index, the store and the queues."""
    return index_info(service)


@router.post("/index/snapshots", status_code=201, tags=["snapshots"])
async def take_snapshot(service: ServiceDep) -> Snapshot:
    """Copy the store as it is at one moment; searches and writes continue."""
    return await service.workers.run(service.snapshots.take)


@router.get("/index/snapshots", tags=["snapshots"])
async def list_snapshots(service: ServiceDep) -> list[Snapshot]:
    """All snapshots, newest first."""
    return await service.workers.run(service.snapshots.all)


@router.post("/index/snapshots/{snapshot_id}/restore", tags=["snapshots"])
async def restore_snapshot(snapshot_id: ItemId, service: ServiceDep) -> Snapshot:
    """Restore a snapshot; everything stored since is lost. Until it ends, searches get 503 and writes wait."""
    return await service.workers.run(lambda: service.restore.run(snapshot_id))


@router.delete("/index/snapshots/{snapshot_id}", status_code=204, tags=["snapshots"])
async def delete_snapshot(snapshot_id: ItemId, service: ServiceDep) -> None:
    """Erase a snapshot."""
    await service.workers.run(lambda: service.snapshots.delete(snapshot_id))


def index_info(service: Service) -> IndexInfo:
    """The body of GET /index, and the source of the gauges at /metrics."""
    served = service.writer.served
    manifest = served.encoder.manifest
    free_bytes = shutil.disk_usage(service.settings.data_dir).free
    return IndexInfo(
        items=service.items.count(),
        model=manifest.model_id,
        aligned=manifest.aligned,
        routes={route: _route(index) for route, index in served.indexes.items()},
        store=StoreInfo(bytes=service.items.database.size(), free_bytes=free_bytes),
        snapshots=_snapshots(service),
        waiting=_waiting(service, served.encoder),
    )


def _route(index: AdaptiveIndex) -> RouteInfo:
    return RouteInfo(
        kind=index.kind,
        dim=index.dim,
        vectors=len(index),
        memory_mib=index.bytes_ >> 20,
        recall=index.recall,
        building=index.building,
    )


def _snapshots(service: Service) -> SnapshotsInfo:
    snapshots = service.snapshots.all()
    return SnapshotsInfo(
        count=len(snapshots),
        bytes=sum(snapshot.bytes for snapshot in snapshots),
        newest_at=max((snapshot.created_at for snapshot in snapshots), default=None),
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
