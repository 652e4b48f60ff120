"""Batched predictions of a trained model, without gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dermnote_train.models.features import text_features
from dermnote_train.models.model import BranchOutput, LesionModel
from dermnote_train.progress import Report, Step, silent

BATCH = 64


@torch.inference_mode()
def predict_images(model: LesionModel, pixels: Tensor, *, progress: Report = silent) -> BranchOutput:
    """uint8 [n, 3, size, size] -> the image branch's outputs, float32 on the CPU. Sets evaluation mode."""
    model.eval()
    batches: list[BranchOutput] = []
    for start in range(0, len(pixels), BATCH):
        batches.append(model.image_branch(pixels[start : start + BATCH].to(model.device)))
        progress(Step("classify images", min(start + BATCH, len(pixels)), len(pixels)))
    return BranchOutput(
        embedding=torch.cat([batch.embedding for batch in batches]).float().cpu(),
        logits=torch.cat([batch.logits for batch in batches]).float().cpu(),
    )


@torch.inference_mode()
def predict_texts(model: LesionModel, texts: Sequence[str], *, progress: Report = silent) -> BranchOutput:
    """n texts -> the text branch's outputs, float32 on the CPU; equal texts get equal rows. Sets evaluation mode."""
    model.eval()
    features = text_features(texts, towers=model.towers, progress=progress)
    outputs = model.text_branch(features.to(model.device))
    return BranchOutput(embedding=outputs.embedding.float().cpu(), logits=outputs.logits.float().cpu())
