"""One training run on many processes (torchrun): each looks at its part of every batch, all see every embedding."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dermnote_train.models.model import Branch


@dataclass(frozen=True)
class Workers:
    """This process among all: `rank` of `count`. One process alone is rank 0 of 1 and talks to nobody."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes files and speaks."""
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch; every process has as many, so the last rows may be there twice."""
        size = -(-len(batch) // self.count)
        rows = torch.arange(self.rank * size, (self.rank + 1) * size).clamp(max=len(batch) - 1)
        return batch[rows]

    def whole(self, branch: Branch, *, size: int) -> Branch:
        """The branch of the whole batch of `size` rows, gradients included; what `part` doubled is cut off."""
        if self.count == 1:
            return branch
        embedding, logits = (
            _Gathered.apply(rows.contiguous()) for rows in (branch.embedding.float(), branch.logits.float())
        )
        return Branch(embedding[:size], logits[:size])

    def agreed(self, value: float) -> float:
        """The first process's value, on all: what decides must not differ by rounding."""
        if self.count == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(told, src=0)
        return float(told)

    def device(self, kind: str) -> torch.device:
        """Each process of a machine has a GPU of its own."""
        if kind == "cuda" and self.count > 1:
            return torch.device("cuda", dist.get_node_local_rank())
        return torch.device(kind)

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier()


class _Gathered(torch.autograd.Function):
    """The rows of all processes in the order of their ranks, [n, d] -> [count * n, d], with gradients."""

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
def joined() -> Iterator[Workers]:
    """The processes that torchrun started together; alone where it did not."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield Workers()
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Workers(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
