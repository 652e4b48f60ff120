"""Prompts: versioned data files (*.toml beside this module) and their rendering. Pure but for reading the files."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from dermnote_contracts.notes import NoteOptions, Strategy

TOKENS_PER_WORD = 2.5


@dataclass(frozen=True)
class PromptFile:
    """One strategy's prompt file. `prefixes`: the text before the request's own facts, by form (full, blinded)."""

    version: str
    prefixes: dict[str, str]
    stop: tuple[str, ...]
    max_words: int
    temperature: float


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt and how to sample from it."""

    text: str
    version: str
    stop: tuple[str, ...]
    max_tokens: int
    temperature: float


@cache
def prompt_file(strategy: Strategy) -> PromptFile:
    """The data file of a strategy."""
    data = tomllib.loads((files(__package__) / f"{strategy}.toml").read_text("utf-8"))
    return PromptFile(
        version=data["version"],
        prefixes={name: part["prefix"].lstrip("\n") for name, part in data.items() if isinstance(part, dict)},
        stop=tuple(data.get("stop", ())),
        max_words=data.get("max_words", 0),
        temperature=data.get("temperature", 0.0),
    )


def render(strategy: Strategy, *, facts: dict[str, Any], options: NoteOptions) -> Prompt:
    """The prompt for one note. Without a diagnosis among the facts, the blinded form: no disease is named in it."""
    source = prompt_file(strategy)
    prefix = source.prefixes["full" if "diagnosis" in facts else "blinded"]
    line = "; ".join(f"{name} {value}" for name, value in facts.items())
    words = options.max_words or source.max_words
    return Prompt(
        text=f"{prefix}Facts: {line}.\nNote:",
        version=source.version,
        stop=source.stop,
        max_tokens=round(words * TOKENS_PER_WORD),
        temperature=source.temperature if options.temperature is None else options.temperature,
    )
