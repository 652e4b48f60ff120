"""Classification by class prompts: by hand, and that every class has its prompts in plain words."""

import pytest
import torch

from dermnote_train.study.prompts import TEMPERATURE, TEMPLATES, class_prompts, prompt_logits


def test_every_class_is_named_in_every_prompt() -> None:
    melanoma, other = class_prompts(("MEL", "blue nevus"))
    assert len(melanoma) == len(other) == len(TEMPLATES)
    assert all("elanoma" in text for text in melanoma)
    assert all("lue nevus" in text for text in other)
    assert melanoma[0] == "Melanoma."


def test_logits_are_cosines_with_the_mean_of_a_class_s_prompts() -> None:
    """Class 0: two prompts at right angles, of which the longer does not weigh more; class 1: one prompt twice."""
    prompts = torch.tensor([[[5.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    picture = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    half = 2**-0.5
    expected = torch.tensor([[half, 1.0], [half, 0.0]]) / TEMPERATURE
    assert torch.allclose(prompt_logits(picture, prompts), expected, atol=1e-5)


def test_a_picture_of_length_nothing_is_at_chance() -> None:
    logits = prompt_logits(torch.zeros(1, 2), torch.eye(2)[:, None])
    assert logits.tolist() == [pytest.approx([0.0, 0.0])]
