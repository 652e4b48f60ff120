"""A trained model at work, in batches and without gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dermnote_train.models.features import text_features
from dermnote_train.models.model import Branch, LesionModel
from dermnote_train.progress import Report, Step, silent

BATCH = 64


@torch.inference_mode()
def classify(model: LesionModel, pixels: Tensor, *, progress: Report = silent) -> Branch:
    """uint8 [n, 3, size, size] -> the image branch's outputs for all n, float32 on the CPU; sets evaluation mode."""
    model.eval()
    parts: list[Branch] = []
    for start in range(0, len(pixels), BATCH):
        parts.append(model.of_pixels(pixels[start : start + BATCH].to(model.device)))
        progress(Step("look at images", min(start + BATCH, len(pixels)), len(pixels)))
    return Branch(
        embedding=torch.cat([part.embedding for part in parts]).float().cpu(),
        logits=torch.cat([part.logits for part in parts]).float().cpu(),
    )


@torch.inference_mode()
def read(model: LesionModel, texts: Sequence[str], *, progress: Report = silent) -> Branch:
    """n texts -> the text branch's outputs, float32 on the CPU; equal texts get equal rows. Sets evaluation mode."""
    model.eval()
    features = text_features(texts, towers=model.towers, progress=progress)
    outputs = model.of_text_features(features.to(model.device))
    return Branch(embedding=outputs.embedding.float().cpu(), logits=outputs.logits.float().cpu())
