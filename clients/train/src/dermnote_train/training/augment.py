"""Augmentation as in arXiv 2511.21827: flips, quarter turns, resized crop 0.80-0.95, RGB shift, each with p 0.5.

"strong" crops down to 0.40, and varies light, contrast, saturation, hue and sharpness as well.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import v2

Augmentation = Literal["paper", "strong"]
RGB_SHIFT = 20


def augmentation(*, image_size: int, kind: Augmentation = "paper") -> v2.Transform:
    """A transform of one picture, uint8 [3, size, size] to the same; it draws from torch's global generator."""
    quarter_turns = [v2.Lambda(_Turn(quarters)) for quarters in (1, 2, 3)]
    turned = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.RandomApply([v2.RandomChoice(quarter_turns)])]
    if kind == "paper":
        cropped = v2.RandomApply([v2.RandomResizedCrop(image_size, scale=(0.80, 0.95), antialias=True)])
        return v2.Compose([*turned, cropped, v2.RandomApply([v2.Lambda(shift_rgb)])])
    return v2.Compose(
        [
            *turned,
            v2.RandomResizedCrop(image_size, scale=(0.40, 1.0), antialias=True),
            v2.RandomApply([v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05)], p=0.8),
            v2.RandomApply([v2.GaussianBlur(5, sigma=(0.1, 1.5))], p=0.2),
        ]
    )


def augmented(pixels: Tensor, transform: v2.Transform, *, seeds: Sequence[int] | None = None) -> Tensor:
    """Each of [n, 3, size, size] transformed by its own draw.

    seeds: a number for each picture, so that it is the same in whatever batch and process it is; torch's global
    generator is then left as it was.
    """
    if seeds is None:
        return torch.stack([transform(picture) for picture in pixels])
    found = []
    with torch.random.fork_rng(devices=[]):
        for picture, seed in zip(pixels, seeds, strict=True):
            torch.manual_seed(seed)
            found.append(transform(picture))
    return torch.stack(found)


def shift_rgb(picture: Tensor) -> Tensor:
    """Add one offset from -RGB_SHIFT..RGB_SHIFT to each channel; values stay within 0..255."""
    offsets = torch.randint(-RGB_SHIFT, RGB_SHIFT + 1, (3, 1, 1), dtype=torch.int16)
    return (picture.to(torch.int16) + offsets).clamp(0, 255).to(torch.uint8)


class _Turn:
    def __init__(self, quarters: int) -> None:
        self.quarters = quarters

    def __call__(self, picture: Tensor) -> Tensor:
        return torch.rot90(picture, self.quarters, dims=(-2, -1))
