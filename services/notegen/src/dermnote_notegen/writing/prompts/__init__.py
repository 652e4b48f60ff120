"""Prompts and wordings: versioned data files (*.toml in this folder), each read once."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict

from dermnote_contracts.notes import Strategy


class Example(BaseModel):
    """An invented patient's facts, from which the note's sentences are generated, and the lesion's description."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    facts: Mapping[str, Any]
    description: str


class PromptFile(BaseModel):
    """One strategy's file. Without an instruction it uses no model; without wordings the model writes freely.

    `wordings`: rules of a phrase grammar; `words`: words for single facts; `most_alternatives`: per rule and seed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    instruction: str = ""
    examples: tuple[Example, ...] = ()
    stop: tuple[str, ...] = ()
    max_words: int = 0
    temperature: float = 0.0
    wordings: Mapping[str, Sequence[str]] = {}
    words: Mapping[str, Any] = {}
    most_alternatives: int = 0


@cache
def prompt_file(strategy: Strategy) -> PromptFile:
    """The data file of a strategy."""
    return PromptFile.model_validate(tomllib.loads((files(__package__) / f"{strategy}.toml").read_text("utf-8")))
