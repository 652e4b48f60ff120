"""Data-parallel training (torchrun): each rank processes a shard of every batch, and all ranks see all embeddings."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dermnote_train.models.model import BranchOutput


@dataclass(frozen=True)
class ProcessGroup:
    """This process's `rank` among `world_size`. A single process is rank 0 of 1 and does not communicate."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and reports progress."""
        return self.rank == 0

    def shard(self, batch: Tensor) -> Tensor:
        """This rank's rows of a batch; all shards have the same size, so the last row may be repeated."""
        size = -(-len(batch) // self.world_size)
        rows = torch.arange(self.rank * size, (self.rank + 1) * size).clamp(max=len(batch) - 1)
        return batch[rows]

    def gather(self, branch: BranchOutput, *, size: int) -> BranchOutput:
        """The outputs of the whole batch of `size` rows, with gradients, without the rows that `shard` repeated."""
        if self.world_size == 1:
            return branch
        embedding, logits = (
            _GatherRows.apply(rows.contiguous()) for rows in (branch.embedding.float(), branch.logits.float())
        )
        return BranchOutput(embedding[:size], logits[:size])

    def broadcast(self, value: float) -> float:
        """Rank 0's value on all ranks, so that rounding does not make the ranks decide differently."""
        if self.world_size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, src=0)
        return float(shared)

    def device(self, kind: str) -> torch.device:
        """The device of this rank: every process of a machine uses its own GPU."""
        if kind == "cuda" and self.world_size > 1:
            return torch.device("cuda", dist.get_node_local_rank())
        return torch.device(kind)

    def barrier(self) -> None:
        """Block until all ranks have arrived."""
        if self.world_size > 1:
            dist.barrier()


class _GatherRows(torch.autograd.Function):
    """The rows of all ranks in rank order, [n, d] -> [world_size * n, d], with gradients."""

    @staticmethod
    def forward(_: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous()
        dist.all_reduce(summed)
        return summed.chunk(dist.get_world_size())[dist.get_rank()]


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """The process group that torchrun started, or a single process without torchrun."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield ProcessGroup()
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
