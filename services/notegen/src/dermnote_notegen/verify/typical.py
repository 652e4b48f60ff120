"""What is typical of a diagnosis, as sets of words that a text's finding words are held against. Pure."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from dermnote_notegen.priors import Prior
from dermnote_notegen.verify.lexicon import Lexicon, Match, role

LEAST_SHARE = 0.4
# Where one named thing ends and the next begins.
THING_ENDS = re.compile(
    r"[,;]|\b(?:and|or|of|with|to|in|on|by|at|around|within|throughout|over|under|between|that|without)\b"
)


@dataclass(frozen=True)
class Wording:
    """A wording's finding words; `heads`: the last of each thing that it names ("dots", "globules")."""

    words: frozenset[str]
    heads: frozenset[str]
    of_the_lesion: bool

    def is_meant_by(self, part: frozenset[str]) -> bool:
        """True when `part` names one of its things and much of its words, or says how the lesion as a whole is.

        "Brown" is not "brown streaks", but it is said by "a brown papule".
        """
        if not part & self.heads or part <= role("colours"):
            return self.of_the_lesion
        return len(part) >= LEAST_SHARE * len(self.words)


@dataclass(frozen=True)
class TypicalFinding:
    """One finding, in its wordings."""

    wordings: tuple[Wording, ...]

    @cached_property
    def heads(self) -> frozenset[str]:
        """The things that it names."""
        return frozenset().union(*(wording.heads for wording in self.wordings)) - role("colours")

    def part_of(self, words: frozenset[str]) -> frozenset[str]:
        """The words that say this finding; none where they don't."""
        part = words & frozenset().union(*(wording.words for wording in self.wordings))
        means_it = bool(part) and any(wording.is_meant_by(part & wording.words) for wording in self.wordings)
        return part if means_it else frozenset()


@dataclass(frozen=True)
class Typical:
    """All that is typical of one diagnosis."""

    findings: tuple[TypicalFinding, ...]
    wordings: tuple[str, ...]

    def fits(self, readings: tuple[frozenset[str], ...]) -> bool:
        """True when one reading of a text's words is made of findings: "a scaly red patch" is two of them."""
        return any(self._is_made_of_findings(words) for words in readings)

    def _is_made_of_findings(self, words: frozenset[str]) -> bool:
        """What only the lesion as a whole is does not go with another thing: no "black streaks", no "firm halo"."""
        parts = [(finding.part_of(words), finding.heads) for finding in self.findings]
        if any(part & heads for part, heads in parts) and words.isdisjoint(role("coloured")):
            parts = [(part, heads) for part, heads in parts if part & heads]
        return words == frozenset().union(*(part for part, _ in parts))

    def verbatim(self, text: str) -> Iterator[tuple[int, int]]:
        """Where a wording stands word for word."""
        lower = text.lower()
        for wording in self.wordings:
            if wording.lower() in lower:
                for match in re.finditer(rf"(?<!\w){re.escape(wording)}(?!\w)", text, re.IGNORECASE):
                    yield match.start(), match.end()


NOTHING = Typical((), ())


def typical_of(prior: Prior, lexicon: Lexicon) -> Typical:
    """What a prior says."""
    findings = (TypicalFinding(tuple(_wording(w, lexicon) for w in finding.wordings)) for finding in prior.findings)
    return Typical(tuple(findings), tuple(w for finding in prior.findings for w in finding.wordings))


def _wording(text: str, lexicon: Lexicon) -> Wording:
    found = [match for match in lexicon.scan(text) if match.is_finding]
    words = frozenset(word for match in found for word in match.finding_words)
    return Wording(words, frozenset(_heads(text, found)), bool(role("coloured") & _all_words(text)))


def _heads(text: str, found: Sequence[Match]) -> Iterator[str]:
    for match, following in itertools.pairwise(found):
        if THING_ENDS.search(text[match.end : following.start]):
            yield match.finding_words[-1]
    if found:
        yield found[-1].finding_words[-1]


def _all_words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))
