"""Rendering: a request's facts as the text, grammar and sampling settings that the model is asked with. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dermnote_contracts.completions import Segment
from dermnote_contracts.metadata import walk
from dermnote_contracts.notes import NoteOptions, Strategy
from dermnote_contracts.vocabulary import diagnoses
from dermnote_notegen.writing.note_grammar import compose, person_in_short, usable_findings, write_skeleton
from dermnote_notegen.writing.phrase_grammar import PhraseGrammar
from dermnote_notegen.writing.priors import Prior
from dermnote_notegen.writing.prompts import Example, PromptFile, prompt_file
from dermnote_notegen.writing.strategies import NoteFacts

TOKENS_PER_WORD = 2.5
MORE_TOKENS = 8
MOST_EXAMPLES = 3
BEFORE_NOTE = " "


@dataclass(frozen=True)
class Prompt:
    """What the model is asked. `grammar`: GBNF that its text must follow, None where it writes freely.

    `segments`: the same texts, sentence by sentence, for an engine that takes them.
    """

    text: str
    version: str
    stop: tuple[str, ...]
    max_tokens: int
    temperature: float
    grammar: str | None = None
    segments: tuple[Segment, ...] = ()


def render(
    strategy: Strategy,
    *,
    facts: NoteFacts,
    prior: Prior | None,
    options: NoteOptions,
    seed: int,
    grammar: bool = True,
) -> Prompt:
    """The prompt for one note. `seed` chooses among wordings; the same seed gives the same prompt.

    `grammar` false: for an engine that can't hold a text to one; the facts are in the prompt then.
    """
    source = prompt_file(strategy)
    words = options.max_words or source.max_words
    segments: tuple[Segment, ...] = ()
    gbnf = None
    if source.wordings:
        text = _guided(source, facts, prior, told=not grammar)
    else:
        text = _by_example(source, facts, names_class=strategy == "P1")
    if source.wordings and grammar:
        composed = compose(facts.stated, prior=prior, seed=seed, max_words=words)
        gbnf, segments = composed.gbnf(before=BEFORE_NOTE), _segments(composed)
    return Prompt(
        text=text,
        version=source.version,
        stop=source.stop,
        max_tokens=round(words * TOKENS_PER_WORD),
        temperature=source.temperature if options.temperature is None else options.temperature,
        grammar=gbnf,
        segments=segments,
    )


def _segments(composed: PhraseGrammar) -> tuple[Segment, ...]:
    """A sentence each, all of them behind the prompt alone, so that requests share their beginnings."""
    return tuple(
        Segment(
            grammar=sentence.gbnf(before="" if number else BEFORE_NOTE),
            max_tokens=round(sentence.most_words() * TOKENS_PER_WORD) + MORE_TOKENS,
            from_prompt=number > 0,
        )
        for number, sentence in enumerate(composed.sentences())
    )


def _guided(source: PromptFile, facts: NoteFacts, prior: Prior | None, *, told: bool) -> str:
    """Instruction and what is typical of the diagnosis: all that notes of a diagnosis share.

    The facts are the text's own skeleton; they are `told` only where no grammar puts them there.
    """
    typical = [finding.wordings[0] for finding in usable_findings(prior, facts.stated)] if prior else []
    known = [f"Typical of {facts.diagnosis}: {'; '.join(typical)}."] if typical else []
    patient = [f"Facts: {_facts_line(facts.stated)}."] if told else []
    return "\n".join([source.instruction, *known, *patient, "Note:"])


def _by_example(source: PromptFile, facts: NoteFacts, *, names_class: bool) -> str:
    """Instruction, worked examples that show the same kinds of facts, then the patient."""
    shown = [
        _example(example, kinds=facts.stated, blinded=facts.diagnosis is None, names_class=names_class)
        for example in chosen_examples(source.examples, diagnosis=facts.diagnosis)
    ]
    patient = f"Facts: {_facts_line(facts.stated, names_class=names_class)}{_given_findings(facts)}.\nNote:"
    return "\n\n".join([source.instruction, *shown, patient])


def chosen_examples(examples: Sequence[Example], *, diagnosis: str | None) -> Sequence[Example]:
    """Examples nearest to the diagnosis: of its class, then of its superclass; in file order for a blinded note."""
    if diagnosis is None:
        return examples[:MOST_EXAMPLES]
    known = diagnoses()

    def distance(example: Example) -> int:
        if "diagnosis" not in example.facts:
            return 0
        one, other = known[diagnosis], known[example.facts["diagnosis"]]
        return (one.klass != other.klass) + (one.superclass != other.superclass)

    return sorted(sorted(examples, key=distance)[:MOST_EXAMPLES], key=distance, reverse=True)


def _example(example: Example, *, kinds: Mapping[str, Any], blinded: bool, names_class: bool) -> str:
    facts = {name: _same_kinds(example.facts[name], kind) for name, kind in kinds.items() if name in example.facts}
    tells = not (blinded and "diagnosis" in example.facts)
    note = " ".join([write_skeleton(facts, seed=len(example.description)), *([example.description] if tells else [])])
    return f"Facts: {_facts_line(facts, names_class=names_class)}.\nNote: {note}"


def _same_kinds(value: Any, kind: Any) -> Any:
    """Of a group of facts (symptoms, findings), those that the request has too."""
    return {name: value[name] for name in kind if name in value} if isinstance(kind, Mapping) else value


def _given_findings(facts: NoteFacts) -> str:
    """Findings that a note may use though it need not state them."""
    if "findings" not in facts.allowed or "findings" in facts.stated:
        return ""
    return "; " + "; ".join(_said({"findings": facts.allowed["findings"]}))


def _facts_line(facts: Mapping[str, Any], *, names_class: bool = False) -> str:
    """The facts in the words in which the note should have them: "61-year-old man; site back; diagnosis melanoma"."""
    who = [person_in_short(facts)] if {"age", "sex"} & set(facts) else []
    rest = _said({name: value for name, value in facts.items() if name not in ("age", "sex")})
    if names_class and "diagnosis" in facts:
        diagnosis = diagnoses()[facts["diagnosis"]]
        rest = [f"superclass {diagnosis.superclass}", f"class {diagnosis.klass}", *rest]
    return "; ".join([*who, *rest])


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


def _said(facts: Mapping[str, Any]) -> list[str]:
    said = []
    for path, value in walk(facts):
        name = path.rpartition(".")[2]
        answer = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
        listed = ", ".join(answer) if isinstance(answer, list) else answer
        said.append(f"{LABELS.get(name, name)} {listed}")
    return said
