"""Configuration of a training run, validated once and saved with the weights; other choices of the command line."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

Augmentation = Literal["paper", "strong"]
"""See training/augment.py."""
Runtime = Literal["both", "onnx", "openclip"]
"""Which runtimes can serve an exported model; its folder contains ONNX graphs, the files of open_clip, or both."""
StudyMode = Literal["strict", "paper"]
"""See StudyPlan."""


class StrictModel(BaseModel):
    """An immutable model that rejects unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LossWeights(StrictModel):
    """Weights of the loss terms (losses.py); the defaults are those of arXiv 2511.21827.

    Two terms are off by default. `info_nce` is the paper's alternative to `nt_xent`; the paper gives it a weight of
    0.25. `fused_ce` is ours: the cross-entropy of the mean of both branches' logits, for models that also receive a
    note at test time.
    """

    image_ce: float = Field(default=1.0, ge=0)
    text_ce: float = Field(default=1.0, ge=0)
    cosine: float = Field(default=1.0, ge=0)
    l1: float = Field(default=1.0, ge=0)
    nt_xent: float = Field(default=0.5, ge=0)
    info_nce: float = Field(default=0.0, ge=0)
    fused_ce: float = Field(default=0.0, ge=0)
    temperature: float = Field(default=0.07, gt=0)


class TrainConfig(StrictModel):
    """One training run. The defaults suit 2 CPU cores; `TrainConfig.paper()` gives the paper's own values.

    `preset`: the towers (towers.py). `lr`: learning rate of the image tower; `head_lr`: learning rate of the head's
    linear layers, which start from random weights and would hardly change in a few short epochs at the paper's 1e-4.
    `tuned`: the trainable part of the image tower. `patience`: epochs without a lower validation loss before the run
    stops. `frozen_norm`: batch normalisation keeps ImageNet's statistics, since a few hundred images would give poor
    estimates. `precision`: "auto" is bfloat16 on a GPU and float32 on a CPU. `accumulate`: batches per optimiser step.
    `save_every`: batches between two checkpoints, from which an interrupted run resumes.
    """

    preset: str = Field(default="lite", pattern=r"^(lite|paper|hf-hub:.+|local-dir:.+)$")
    image_size: int = Field(default=128, ge=32, le=512)
    epochs: int = Field(default=12, ge=1, le=1000)
    batch_size: int = Field(default=32, ge=2, le=4096)
    lr: float = Field(default=1e-4, gt=0)
    head_lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-5, ge=0)
    patience: int = Field(default=4, ge=1)
    tuned: Literal["all", "last", "none"] = "all"
    frozen_norm: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    accumulate: int = Field(default=1, ge=1, le=1024)
    save_every: int = Field(default=50, ge=1)
    losses: LossWeights = LossWeights()
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @classmethod
    def paper(cls, *, seed: int = 0) -> Self:
        """The paper's schedule: 224 px, 10 epochs, one learning rate of 1e-4, only the text tower frozen."""
        return cls(image_size=224, epochs=10, lr=1e-4, head_lr=1e-4, tuned="all", frozen_norm=False, seed=seed)
