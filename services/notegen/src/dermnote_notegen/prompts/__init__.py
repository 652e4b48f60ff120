"""Prompts: versioned data files (*.toml beside this module) and their rendering. Pure but for reading the files."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from dermnote_contracts.notes import NoteOptions, Strategy
from dermnote_notegen import skeleton

TOKENS_PER_WORD = 2.5


@dataclass(frozen=True)
class Example:
    """An invented patient and how the lesion is described; the sentence with the facts is made from `facts`."""

    facts: dict[str, Any]
    description: str


@dataclass(frozen=True)
class PromptFile:
    """One strategy's prompt file. Without an instruction the strategy asks no model."""

    version: str
    instruction: str
    examples: tuple[Example, ...]
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
        instruction=data.get("instruction", ""),
        examples=tuple(Example(entry["facts"], entry["description"]) for entry in data.get("examples", ())),
        stop=tuple(data.get("stop", ())),
        max_words=data.get("max_words", 0),
        temperature=data.get("temperature", 0.0),
    )


def render(strategy: Strategy, *, facts: dict[str, Any], options: NoteOptions) -> Prompt:
    """The prompt for one note. Its examples show the same kinds of facts, so a blinded one names no disease."""
    source = prompt_file(strategy)
    shown = [_example(example, kinds=tuple(facts)) for example in source.examples]
    words = options.max_words or source.max_words
    return Prompt(
        text="\n\n".join([source.instruction, *shown, f"{_facts_line(facts)}\nNote:"]),
        version=source.version,
        stop=source.stop,
        max_tokens=round(words * TOKENS_PER_WORD),
        temperature=source.temperature if options.temperature is None else options.temperature,
    )


def _example(example: Example, *, kinds: tuple[str, ...]) -> str:
    facts = {name: example.facts[name] for name in kinds}
    return f"{_facts_line(facts)}\nNote: {skeleton.presenting_sentence(facts)} {example.description}"


def _facts_line(facts: dict[str, Any]) -> str:
    """The facts in the words in which the note should have them: "Facts: 61-year-old man; back; melanoma."."""
    who = [skeleton.person(facts)] if {"age", "sex"} & set(facts) else []
    rest = [f"{name} {value}" for name, value in facts.items() if name not in ("age", "sex")]
    return f"Facts: {'; '.join([*who, *rest])}."
