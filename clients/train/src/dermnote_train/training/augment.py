"""Augmentation as in arXiv 2511.21827: flips, quarter turns, resized crops and RGB shifts, each with probability 0.5.

A crop keeps 0.80 to 0.95 of the area. "strong" always crops, to 0.40 to 1.0 of the area, and replaces the RGB shift by
colour jitter and blur.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import v2

from dermnote_train.config import Augmentation

RGB_SHIFT = 20


def augmentation(*, image_size: int, kind: Augmentation = "paper") -> v2.Transform:
    """A random transform of one image, uint8 [3, size, size], that keeps type and shape and uses torch's generator."""
    quarter_turns = [v2.Lambda(partial(torch.rot90, k=quarters, dims=(-2, -1))) for quarters in (1, 2, 3)]
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


def augment(pixels: Tensor, transform: v2.Transform, *, seeds: Sequence[int] | None = None) -> Tensor:
    """Transform each image of [n, 3, size, size] independently.

    seeds: one per image, so that a result depends on neither batch nor process, and torch's global generator keeps its
    state. Without seeds, the global generator is used.
    """
    if seeds is None:
        return torch.stack([transform(image) for image in pixels])
    images = []
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(pixels, seeds, strict=True):
            torch.manual_seed(seed)
            images.append(transform(image))
    return torch.stack(images)


def shift_rgb(image: Tensor) -> Tensor:
    """Add a random offset in -RGB_SHIFT..RGB_SHIFT per channel; values are clamped to 0..255."""
    offsets = torch.randint(-RGB_SHIFT, RGB_SHIFT + 1, (3, 1, 1), dtype=torch.int16)
    return (image.to(torch.int16) + offsets).clamp(0, 255).to(torch.uint8)
