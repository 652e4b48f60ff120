"""Snapshots of the store: taken while it serves, listed, restored, deleted."""

from fastapi import APIRouter

from dermnote_contracts.retrieval import ItemId, Snapshot
from dermnote_retrieval.api.forms import ServiceDep

router = APIRouter(prefix="/index/snapshots", tags=["snapshots"])


@router.post("", status_code=201)
async def take_snapshot(service: ServiceDep) -> Snapshot:
    """Copy the store as it is at one moment; searches and writes go on."""
    return await service.workers.run(service.snapshots.take)


@router.get("")
def list_snapshots(service: ServiceDep) -> list[Snapshot]:
    """The newest first."""
    return service.snapshots.all()


@router.post("/{snapshot_id}/restore")
async def restore_snapshot(snapshot_id: ItemId, service: ServiceDep) -> Snapshot:
    """Go back to a snapshot: what was stored since is gone. Searches are 503 meanwhile, writes wait."""
    return await service.workers.run(lambda: service.restoring.restore(snapshot_id))


@router.delete("/{snapshot_id}", status_code=204)
def delete_snapshot(snapshot_id: ItemId, service: ServiceDep) -> None:
    """Erase a snapshot."""
    service.snapshots.delete(snapshot_id)
