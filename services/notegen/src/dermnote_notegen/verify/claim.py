"""One claim of a text, as all parts of the verifier hand it on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TextClaim:
    """One claim: `field` as in the metadata, or what it is of; `value` canonical; `start`/`end` code points, half open.

    `typical`: said of the diagnosis in general. `readings`: the sets of finding words that it can be a part of;
    `words`: its own; `things`: what its run of words names, with colours.
    """

    field: str
    value: str
    start: int
    end: int
    negated: bool = False
    typical: bool = False
    readings: tuple[frozenset[str], ...] = ()
    words: frozenset[str] = frozenset()
    things: tuple[tuple[str, frozenset[str]], ...] = ()
