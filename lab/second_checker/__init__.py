"""A second checker of notes, written from the definition of a faithful note alone, independently of the verifier.

It removes all words that it recognises as part of a claim and checks these claims against the facts. Every remaining
word must be in a short list of connecting words, so that any unforeseen wording is reported as a problem.
"""

import re
from collections.abc import Mapping
from typing import Any

from dermnote_notegen.writing.priors import Prior
from lab.second_checker.judge import missing, verdict
from lab.second_checker.polarity import read_polarity
from lab.second_checker.strike import Strip, joined_findings, leftovers, strike_assertion, strike_typical
from lab.second_checker.text import Part, parts, stray_capitals

__all__ = ["check"]


def check(
    text: str, *, facts: Mapping[str, Any], allowed: Mapping[str, Any] | None = None, prior: Prior | None = None
) -> list[str]:
    """The problems of a note; an empty list means that it is faithful.

    `facts`: those that the note must state; `allowed`: those that it may state (default: `facts`); both in the form of
    LesionMetadata.given().
    `prior`: the findings that may be worded as typical of the diagnosis.
    """
    permitted = facts if allowed is None else allowed
    problems = [f"name: {word}" for word in stray_capitals(text, prior)]
    stated: set[tuple[str, str]] = set()
    note_parts = parts(text, prior)
    for part in note_parts:
        found, part_stated = _check_part(part, permitted, prior)
        problems += found
        stated |= part_stated
    problems += _repeated_texts(note_parts)
    problems += missing(facts, stated)
    return list(dict.fromkeys(problems))


def _check_part(part: Part, allowed: Mapping[str, Any], prior: Prior | None) -> tuple[list[str], set[tuple[str, str]]]:
    problems: list[str] = []
    stated: set[tuple[str, str]] = set()
    strip = Strip(part.text)
    if part.typical:
        problems += strike_typical(strip, prior)
    else:
        strike_assertion(strip, prior)
        problems += read_polarity(strip)
        problems += joined_findings(strip)
    for claim in strip.claims:
        problem, claim_stated = verdict(claim, allowed, typical=part.typical)
        problems += [problem] if problem else []
        stated |= set() if part.typical else claim_stated
    problems += _repeated_claims(strip)
    return problems + leftovers(strip, typical=part.typical), stated


def _repeated_claims(strip: Strip) -> list[str]:
    listed = [(claim.path, claim.value) for claim in strip.claims if claim.path.startswith(("symptoms", "findings"))]
    return [f"repetition: {value or path}" for path, value in dict.fromkeys(listed) if listed.count((path, value)) > 1]


def _repeated_texts(note_parts: list[Part]) -> list[str]:
    texts = [part.text for part in note_parts]
    doubled = [f"repetition: {text}" for text in dict.fromkeys(texts) if texts.count(text) > 1]
    doubled_words = [f"repetition: {found[0]}" for text in texts for found in re.finditer(r"\b([a-z]+) \1\b", text)]
    return doubled + doubled_words
