"""Classification by class prompts: computed by hand, and readable prompts for every class."""

import pytest
import torch

from dermnote_train.study.prompts import TEMPERATURE, TEMPLATES, class_prompts, prompt_logits


def test_every_prompt_names_its_class() -> None:
    melanoma, other = class_prompts(("MEL", "blue nevus"))
    assert len(melanoma) == len(other) == len(TEMPLATES)
    assert all("elanoma" in text for text in melanoma)
    assert all("lue nevus" in text for text in other)
    assert melanoma[0] == "Melanoma."


def test_logits_are_cosines_with_a_class_s_mean_prompt() -> None:
    """Class 0: two orthogonal prompts, of which the longer has no more weight; class 1: one prompt twice."""
    prompts = torch.tensor([[[5.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    image = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    half = 2**-0.5
    expected = torch.tensor([[half, 1.0], [half, 0.0]]) / TEMPERATURE
    assert torch.allclose(prompt_logits(image, prompts), expected, atol=1e-5)


def test_a_zero_embedding_is_at_chance() -> None:
    logits = prompt_logits(torch.zeros(1, 2), torch.eye(2)[:, None])
    assert logits.tolist() == [pytest.approx([0.0, 0.0])]
