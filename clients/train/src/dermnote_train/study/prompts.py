"""Classification by class prompts: a picture's class is the one whose prompts lie nearest, as CLIP does it zero-shot.

The classifier of the head takes no part, so the space that pictures and notes share is what is tested.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import normalize

from dermnote_train.config import LossWeights
from dermnote_train.data.labels import DIAGNOSIS_OF

TEMPLATES = ("{}.", "A dermoscopic image of {}.", "A photograph of {}.", "The lesion is {}.", "Diagnosis: {}.")
TEMPERATURE = LossWeights().temperature


def class_prompts(classes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The prompts of each class."""
    return tuple(
        tuple(_sentence(template.format(DIAGNOSIS_OF.get(name, name))) for template in TEMPLATES) for name in classes
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def prompt_logits(image: Tensor, prompts: Tensor) -> Tensor:
    """Logits [n, classes]: cosine of the pictures' embeddings [n, e] and the classes' mean prompt, over TEMPERATURE.

    prompts: embeddings [classes, prompts, e]; as in CLIP each is brought to length 1 before the mean is.
    """
    means = normalize(normalize(prompts, dim=-1).mean(dim=1), dim=-1)
    return normalize(image, dim=-1) @ means.T / TEMPERATURE
