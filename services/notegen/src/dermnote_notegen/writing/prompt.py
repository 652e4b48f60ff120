"""Builds a request's prompt: the text, the grammar and the sampling settings for the model. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dermnote_contracts.completions import Segment
from dermnote_contracts.metadata import walk
from dermnote_contracts.notes import NoteOptions, Strategy
from dermnote_contracts.vocabulary import diagnoses
from dermnote_notegen.writing.grammar import (
    PhraseGrammar,
    build_note_grammar,
    person_in_short,
    usable_findings,
    write_skeleton,
)
from dermnote_notegen.writing.priors import Prior
from dermnote_notegen.writing.strategies import Example, NoteFacts, PromptFile, prompt_file

TOKENS_PER_WORD = 2.5
EXTRA_TOKENS = 8
MAX_EXAMPLES = 3
BEFORE_NOTE = " "


@dataclass(frozen=True)
class Prompt:
    """The input of one completion. `grammar`: GBNF that the text must follow; None if the model writes freely.

    `segments`: the same grammar sentence by sentence, for engines that support segments.
    """

    text: str
    version: str
    stop: tuple[str, ...]
    max_tokens: int
    temperature: float
    grammar: str | None = None
    segments: tuple[Segment, ...] = ()


def build_prompt(
    strategy: Strategy,
    *,
    facts: NoteFacts,
    prior: Prior | None,
    options: NoteOptions,
    seed: int,
    grammar: bool = True,
) -> Prompt:
    """The prompt of one note. `seed` chooses among wordings; the same seed gives the same prompt.

    `grammar` False: for an engine without grammars; strategy G's prompt then contains the facts.
    """
    prompts = prompt_file(strategy)
    words = options.max_words or prompts.max_words
    segments: tuple[Segment, ...] = ()
    gbnf = None
    if prompts.wordings:
        text = _instruction(prompts, facts, prior, with_facts=not grammar)
    else:
        text = _few_shot(prompts, facts, names_class=strategy == "P1")
    if prompts.wordings and grammar:
        note_grammar = build_note_grammar(facts.stated, prior=prior, seed=seed, max_words=words)
        gbnf, segments = note_grammar.gbnf(before=BEFORE_NOTE), _segments(note_grammar)
    return Prompt(
        text=text,
        version=prompts.version,
        stop=prompts.stop,
        max_tokens=round(words * TOKENS_PER_WORD),
        temperature=prompts.temperature if options.temperature is None else options.temperature,
        grammar=gbnf,
        segments=segments,
    )


def _segments(note_grammar: PhraseGrammar) -> tuple[Segment, ...]:
    """One segment per sentence, generated as if directly after the prompt, so that requests share prefixes."""
    return tuple(
        Segment(
            grammar=sentence.gbnf(before="" if number else BEFORE_NOTE),
            max_tokens=round(sentence.most_words() * TOKENS_PER_WORD) + EXTRA_TOKENS,
            from_prompt=number > 0,
        )
        for number, sentence in enumerate(note_grammar.sentences())
    )


def _instruction(prompts: PromptFile, facts: NoteFacts, prior: Prior | None, *, with_facts: bool) -> str:
    """Instruction and typical findings: what all notes of a diagnosis share.

    `with_facts`: for an engine without grammars; otherwise the grammar states the facts.
    """
    typical = [finding.wordings[0] for finding in usable_findings(prior, facts.stated)] if prior else []
    known = [f"Typical of {facts.diagnosis}: {'; '.join(typical)}."] if typical else []
    patient = [f"Facts: {_facts_line(facts.stated)}."] if with_facts else []
    return "\n".join([prompts.instruction, *known, *patient, "Note:"])


def _few_shot(prompts: PromptFile, facts: NoteFacts, *, names_class: bool) -> str:
    """Instruction, worked examples with the kinds of facts that the request has, then the patient's facts."""
    examples = [
        _example(example, kinds=facts.stated, blinded=facts.diagnosis is None, names_class=names_class)
        for example in choose_examples(prompts.examples, diagnosis=facts.diagnosis)
    ]
    patient = f"Facts: {_facts_line(facts.stated, names_class=names_class)}{_given_findings(facts)}.\nNote:"
    return "\n\n".join([prompts.instruction, *examples, patient])


def choose_examples(examples: Sequence[Example], *, diagnosis: str | None) -> Sequence[Example]:
    """The examples nearest to the diagnosis by class and superclass, nearest last; for a blinded note, the first."""
    if diagnosis is None:
        return examples[:MAX_EXAMPLES]
    known = diagnoses()

    def distance(example: Example) -> int:
        if "diagnosis" not in example.facts:
            return 0
        one, other = known[diagnosis], known[example.facts["diagnosis"]]
        return (one.class_name != other.class_name) + (one.superclass != other.superclass)

    return sorted(sorted(examples, key=distance)[:MAX_EXAMPLES], key=distance, reverse=True)


def _example(example: Example, *, kinds: Mapping[str, Any], blinded: bool, names_class: bool) -> str:
    facts = {name: _same_kinds(example.facts[name], kind) for name, kind in kinds.items() if name in example.facts}
    described = not (blinded and "diagnosis" in example.facts)
    note = write_skeleton(facts, seed=len(example.description)) + (f" {example.description}" if described else "")
    return f"Facts: {_facts_line(facts, names_class=names_class)}.\nNote: {note}"


def _same_kinds(value: Any, kind: Any) -> Any:
    """An example's fact; of its symptoms or findings, only those that the request gives too."""
    return {name: value[name] for name in kind if name in value} if isinstance(kind, Mapping) else value


def _given_findings(facts: NoteFacts) -> str:
    """Findings that a note may but need not state."""
    if "findings" not in facts.allowed or "findings" in facts.stated:
        return ""
    return "; " + "; ".join(_labelled({"findings": facts.allowed["findings"]}))


def _facts_line(facts: Mapping[str, Any], *, names_class: bool = False) -> str:
    """The facts as the note should word them: "61-year-old man; site back; diagnosis melanoma"."""
    person = [person_in_short(facts)] if {"age", "sex"} & set(facts) else []
    rest = _labelled({name: value for name, value in facts.items() if name not in ("age", "sex")})
    if names_class and "diagnosis" in facts:
        diagnosis = diagnoses()[facts["diagnosis"]]
        rest = [f"superclass {diagnosis.superclass}", f"class {diagnosis.class_name}", *rest]
    return "; ".join([*person, *rest])


LABELS = {
    "fitzpatrick_skin_type": "Fitzpatrick skin type",
    "clin_size_long_diam_mm": "longest diameter in mm",
    "image_type": "image",
    "personal_hx_mm": "personal history of melanoma",
    "family_hx_mm": "family history of melanoma",
    "benign_malignant": "recorded as",
    "hurt": "pain",
    "grew": "growth",
    "changed": "change",
    "itch": "itching",
    "bleed": "bleeding",
}


def _labelled(facts: Mapping[str, Any]) -> list[str]:
    labelled = []
    for path, value in walk(facts):
        name = path.rpartition(".")[2]
        answer = ("yes" if value else "no") if isinstance(value, bool) else value
        labelled.append(f"{LABELS.get(name, name)} {', '.join(answer) if isinstance(answer, list) else answer}")
    return labelled
