"""Which pictures an epoch shows, and by which numbers each is augmented. The same whatever process asks, and when."""

import torch
from torch import Tensor


def balanced_order(labels: Tensor, *, classes: int, seed: int, epoch: int) -> Tensor:
    """As many draws as there are pictures, with replacement, every class equally likely: rows, int64 [n]."""
    counts = torch.bincount(labels.cpu(), minlength=classes)
    chances = (1 / counts.double())[labels.cpu()]
    generator = torch.Generator().manual_seed(_number(seed, epoch))
    return torch.multinomial(chances, len(labels), replacement=True, generator=generator)


def augmentation_seeds(places: Tensor, *, seed: int, epoch: int) -> list[int]:
    """A number for each place of an epoch's order: what shows there is augmented by it, on whichever process."""
    return [_number(seed, epoch, int(place) + 1) for place in places]


def _number(*parts: int) -> int:
    """One number of several, far apart for near ones (FNV-1a, 63 bits)."""
    found = 0xCBF29CE484222325
    for part in parts:
        for byte in part.to_bytes(8, "little"):
            found = ((found ^ byte) * 0x100000001B3) % 2**64
    return found >> 1
