"""Notes that must not name the diagnosis: what a test-time note may hold is what is known before there is one."""

import re
from collections.abc import Mapping
from functools import cache

from dermnote_contracts.notes import ALL_TOPICS, Topic
from dermnote_contracts.vocabulary import diagnoses, fold
from dermnote_train.errors import UserError

BLINDED: frozenset[Topic] = ALL_TOPICS - {"diagnosis"}
"""What a blinded note is written from."""


def refuse_named(notes: Mapping[str, str], *, source: str) -> None:
    """Raise UserError if any note names a diagnosis, counting them and naming the first."""
    naming = {image_id: named for image_id, text in notes.items() if (named := named_diagnosis(text))}
    if naming:
        image_id, named = next(iter(naming.items()))
        raise UserError(
            f"{source}: {len(naming)} of its notes name a diagnosis (first {image_id}: {named}), so they are not "
            "blinded; make them with: dermnote notes FOLDER --blinded"
        )


def named_diagnosis(text: str) -> str | None:
    """A diagnosis of the vocabulary, by its name or a synonym, that a text names; None if there is none."""
    found = _names().search(fold(text))
    return found[0] if found else None


@cache
def _names() -> re.Pattern[str]:
    names = {fold(name) for one in diagnoses().values() for name in (one.name, *one.synonyms)}
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")
