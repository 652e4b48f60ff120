"""Classification by class prompts as in CLIP: an image gets the class whose prompts are nearest.

The head's classifier is not used, so this tests the embedding space that images and notes share.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import normalize

from dermnote_train.config import LossWeights
from dermnote_train.data.labels import DIAGNOSIS_OF

TEMPLATES = ("{}.", "A dermoscopic image of {}.", "A photograph of {}.", "The lesion is {}.", "Diagnosis: {}.")
TEMPERATURE = LossWeights().temperature


def class_prompts(classes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The prompts of each class, as sentences."""
    return tuple(
        tuple(_sentence(template.format(DIAGNOSIS_OF.get(name, name))) for template in TEMPLATES) for name in classes
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def prompt_logits(image: Tensor, prompts: Tensor) -> Tensor:
    """Logits [n, classes]: cosine between image embeddings [n, e] and each class's mean prompt, divided by TEMPERATURE.

    prompts: embeddings [classes, prompts, e]; as in CLIP, prompts and their means are normalised.
    """
    means = normalize(normalize(prompts, dim=-1).mean(dim=1), dim=-1)
    return normalize(image, dim=-1) @ means.T / TEMPERATURE
