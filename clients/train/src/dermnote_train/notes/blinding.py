"""Blinded notes: written without the diagnosis, so that they may be an input at test time."""

import re
from collections.abc import Mapping
from functools import cache

from dermnote_contracts.notes import ALL_TOPICS, Topic
from dermnote_contracts.vocabulary import diagnoses, fold
from dermnote_train.errors import UserError

BLINDED: frozenset[Topic] = ALL_TOPICS - {"diagnosis"}
"""The topics of a blinded note."""


def check_blinded(notes: Mapping[str, str], *, source: str) -> None:
    """Raise UserError if any note names a diagnosis, with their number and the first one."""
    naming = {image_id: name for image_id, text in notes.items() if (name := named_diagnosis(text))}
    if naming:
        image_id, name = next(iter(naming.items()))
        raise UserError(
            f"{source}: {len(naming)} notes name a diagnosis (first {image_id}: {name}), so they are not blinded; "
            "write blinded notes with: dermnote notes FOLDER --blinded"
        )


def named_diagnosis(text: str) -> str | None:
    """The first name or synonym of a diagnosis in a text; None if there is none."""
    found = _pattern().search(fold(text))
    return found[0] if found else None


@cache
def _pattern() -> re.Pattern[str]:
    names = {fold(name) for one in diagnoses().values() for name in (one.name, *one.synonyms)}
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")
