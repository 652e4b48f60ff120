"""Prompts and wordings: versioned data files (*.toml beside this module), read once. Pure but for reading the files."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from dermnote_contracts.notes import Strategy


@dataclass(frozen=True)
class Example:
    """An invented patient and how the lesion is described; the sentences with the facts are made from `facts`."""

    facts: Mapping[str, Any]
    description: str


@dataclass(frozen=True)
class PromptFile:
    """One strategy's file. Without an instruction the strategy asks no model; without wordings the model writes freely.

    `wordings`: rules of a phrase grammar; `words`: words for single facts; `most_alternatives`: a rule's, for one seed.
    """

    version: str
    instruction: str
    examples: tuple[Example, ...]
    stop: tuple[str, ...]
    max_words: int
    temperature: float
    wordings: Mapping[str, Sequence[str]]
    words: Mapping[str, Any]
    most_alternatives: int


@cache
def prompt_file(strategy: Strategy) -> PromptFile:
    """The data file of a strategy."""
    data = tomllib.loads((files(__package__) / f"{strategy}.toml").read_text("utf-8"))
    return PromptFile(
        version=data["version"],
        instruction=data.get("instruction", ""),
        examples=tuple(Example(entry["facts"], entry["description"]) for entry in data.get("examples", ())),
        stop=tuple(data.get("stop", ())),
        max_words=data.get("max_words", 0),
        temperature=data.get("temperature", 0.0),
        wordings=data.get("wordings", {}),
        words=data.get("words", {}),
        most_alternatives=data.get("most_alternatives", 0),
    )
