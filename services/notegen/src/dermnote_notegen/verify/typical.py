"""Typical findings of a diagnosis, as sets of words to match a text's finding words against. Pure functions."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

from dermnote_notegen.verify.lexicon import Lexicon, role, words
from dermnote_notegen.verify.sentence import Thing, things
from dermnote_notegen.writing.priors import Prior

MIN_SHARE = 0.4


@dataclass(frozen=True)
class Wording:
    """A wording's finding words; `heads`: the last word of each thing that it names ("dots", "globules")."""

    words: frozenset[str]
    heads: frozenset[str]
    of_the_lesion: bool
    things: tuple[Thing, ...]

    def is_meant_by(self, part: frozenset[str]) -> bool:
        """True if `part` names one of its things and enough of its words, or describes the lesion itself.

        "Brown" does not mean "brown streaks", but it is part of "a brown papule".
        """
        if not part & self.heads or part <= role("colours"):
            return self.of_the_lesion
        return part <= role("coloured") or len(part) >= MIN_SHARE * len(self.words)


@dataclass(frozen=True)
class TypicalFinding:
    """One finding, in its wordings."""

    wordings: tuple[Wording, ...]

    @cached_property
    def heads(self) -> frozenset[str]:
        """The things that its wordings name."""
        return frozenset().union(*(wording.heads for wording in self.wordings)) - role("colours")

    def part_of(self, words: frozenset[str]) -> frozenset[str]:
        """The words that state this finding; empty if they don't."""
        part = words & frozenset().union(*(wording.words for wording in self.wordings))
        is_stated = bool(part) and any(wording.is_meant_by(part & wording.words) for wording in self.wordings)
        return part if is_stated else frozenset()


@dataclass(frozen=True)
class Typical:
    """All that is typical of one diagnosis."""

    findings: tuple[TypicalFinding, ...]
    wordings: tuple[str, ...]
    lacking: frozenset[str] = frozenset()

    def fits(self, readings: tuple[frozenset[str], ...], named: Sequence[Thing] = ()) -> bool:
        """True if one reading of a text's words consists of findings: "a scaly red patch" is two of them.

        A thing that has colours in the wordings must not have others: not "white lacunae with red lines".
        """
        colours_match = (self.colours_of.get(name, colours) >= colours for name, colours in named)
        return all(colours_match) and any(self._consists_of_findings(words) for words in readings)

    @cached_property
    def colours_of(self) -> Mapping[str, frozenset[str]]:
        """The colours of each thing that has one in any wording."""
        found: dict[str, frozenset[str]] = {}
        for thing, colours in (named for finding in self.findings for w in finding.wordings for named in w.things):
            if colours:
                found[thing] = found.get(thing, frozenset()) | colours
        return found

    def _consists_of_findings(self, words: frozenset[str]) -> bool:
        """Attributes of the whole lesion don't apply to its parts: not "black streaks", not "firm halo"."""
        parts = [(finding.part_of(words), finding.heads) for finding in self.findings]
        if any(part & heads for part, heads in parts) and words.isdisjoint(role("coloured")):
            parts = [(part, heads) for part, heads in parts if part & heads]
        return words == frozenset().union(*(part for part, _ in parts))

    def contains(self, word: str) -> bool:
        """True if a wording contains this word, whatever it claims elsewhere: "fading gradually"."""
        return any(re.search(rf"\b{re.escape(word)}\b", wording, re.IGNORECASE) for wording in self.wordings)

    def lacks(self, words: frozenset[str]) -> bool:
        """True if the absence of a text's words is typical: "without scale"."""
        return words <= self.lacking

    def verbatim(self, text: str) -> Iterator[tuple[int, int]]:
        """The spans of verbatim wordings."""
        lower = text.lower()
        for wording in self.wordings:
            if wording.lower() in lower:
                for match in re.finditer(rf"(?<!\w){re.escape(wording)}(?!\w)", text, re.IGNORECASE):
                    yield match.start(), match.end()


NOTHING = Typical((), ())


def modifiers(wordings: Iterable[str], lexicon: Lexicon) -> frozenset[str]:
    """Finding words directly before another one: "soft" in "a soft nodule"."""
    pairs = (pair for wording in wordings for pair in itertools.pairwise(lexicon.scan(wording)))
    return frozenset(left.finding_words[-1] for left, right in pairs if left.is_finding and right.is_finding)


def typical_of(prior: Prior, lexicon: Lexicon, modifying: Set[str] = frozenset()) -> Typical:
    """A prior's findings. `modifying`: words that name nothing by themselves; see `modifiers`."""
    findings = (
        TypicalFinding(tuple(_wording(w, lexicon, modifying) for w in finding.wordings)) for finding in prior.findings
    )
    wordings = tuple(wording for finding in prior.findings for wording in finding.wordings)
    lacking = frozenset(word for wording in wordings for word in _lacking(wording, lexicon))
    return Typical(tuple(findings), wordings, lacking)


def _lacking(wording: str, lexicon: Lexicon) -> Iterator[str]:
    """The finding words after a negator: "scale" in "a smooth surface without scale"."""
    negators = [word for word in words(wording) if word.text in role("negators")]
    for match in lexicon.scan(wording[negators[0].end :]) if negators else ():
        if match.is_finding:
            yield from match.finding_words


def _wording(text: str, lexicon: Lexicon, modifying: Set[str]) -> Wording:
    lacking = set(_lacking(text, lexicon))
    found = [match for match in lexicon.scan(text) if match.is_finding and lacking.isdisjoint(match.finding_words)]
    words = frozenset(word for match in found for word in match.finding_words)
    named = tuple(things(found, text))
    heads = frozenset(name for name, _ in named[:-1] if name not in modifying).union(name for name, _ in named[-1:])
    of_the_lesion = not role("coloured").isdisjoint(re.findall(r"[a-z]+", text.lower()))
    return Wording(words, heads, of_the_lesion, named)
