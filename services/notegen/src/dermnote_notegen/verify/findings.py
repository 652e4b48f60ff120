"""Groups the words of a sentence into findings, and decides which are typical of a diagnosis. Pure functions."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

from dermnote_notegen.verify.lexicon import Lexicon, Match, role, words
from dermnote_notegen.writing.priors import Prior

MIN_SHARE = 0.4
LISTED = re.compile(
    r"[\s,+-]*(?:(?:and|or|as|well|with|an?|the|is|are|usually|typically|often|commonly|generally)[\s,]+)*",
    re.IGNORECASE,
)
# Separates one named thing from the next.
THING_ENDS = re.compile(
    r"[,;]|\b(?:and|or|of|with|to|in|on|by|at|around|within|throughout|over|under|between|that|without)\b"
)
MAX_LISTED = 12
# A thing that a text names, and its colours: "lacunae", red.
Thing = tuple[str, frozenset[str]]


@dataclass(frozen=True)
class Run:
    """Phrases that are read together: a finding with its function words, or a single phrase that is not a finding."""

    matches: tuple[Match, ...]

    @property
    def is_finding(self) -> bool:
        """True if it describes how a lesion looks."""
        return self.matches[0].is_finding

    def things(self, text: str) -> tuple[Thing, ...]:
        """The coloured things that it names."""
        named = things([match for match in self.matches if match.is_finding], text)
        return tuple((name, colours) for name, colours in named if colours and name not in role("colours"))

    @cached_property
    def words(self) -> frozenset[str]:
        """Its finding words."""
        return frozenset(word for match in self.matches if match.is_finding for word in match.finding_words)


def runs(matches: Sequence[Match], text: str) -> Iterator[Run]:
    """The matches in groups, in order: finding words separated only by function words are one run."""
    group: list[Match] = []
    joining: list[Match] = []
    for match in matches:
        together = bool(group) and not re.search(r"[,;:()]", text[group[-1].end : match.start])
        if together and match.is_finding:
            group += [*joining, match]
            joining = []
        elif together and match.joins:
            joining.append(match)
        else:
            yield from _ended(group, joining)
            group, joining = ([match], []) if match.is_finding else ([], [])
            if not match.is_finding:
                yield Run((match,))
    yield from _ended(group, joining)


def _ended(group: list[Match], joining: list[Match]) -> Iterator[Run]:
    if group:
        yield Run(tuple(group))
    yield from (Run((match,)) for match in joining)


def things(findings: Sequence[Match], text: str) -> Iterator[Thing]:
    """The last word of each thing that the finding words name ("red lacunae with white septa"), with its colours."""
    colours: set[str] = set()
    for match, following in itertools.pairwise([*findings, None]):
        if match is not None:
            colours |= _hues(match.words)
            if following is None or THING_ENDS.search(text[match.end : following.start]):
                yield match.finding_words[-1], frozenset(colours)
                colours = set()


def _hues(phrase: Sequence[str]) -> set[str]:
    """The colours in a phrase; "reddish" and "erythematous" are "red"."""
    found = {word for word in phrase if word in role("colours") and word not in role("shades")}
    return {"red" if hue in ("erythematous", "reddish") else hue.removesuffix("ish") for hue in found}


def readings(all_runs: Sequence[Run], text: str) -> dict[Run, tuple[frozenset[str], ...]]:
    """For each finding run, the sets of words that it can be read as: its own, alone or with its neighbours' in a list.

    "Dots and globules of varying size" can be one finding or two.
    """
    found: dict[Run, tuple[frozenset[str], ...]] = {}
    for chain in _chains([run for run in all_runs if run.is_finding], text):
        for number, run in enumerate(chain):
            spans = itertools.product(range(number + 1), range(number + 1, len(chain) + 1))
            found[run] = tuple(frozenset().union(*(part.words for part in chain[a:b])) for a, b in spans)
    return found


def _chains(findings: Sequence[Run], text: str) -> Iterator[list[Run]]:
    """Finding runs separated only by commas, "and" and "or"."""
    chain: list[Run] = []
    for run in findings:
        between = text[chain[-1].matches[-1].end : run.matches[0].start] if chain else ""
        if chain and (len(chain) == MAX_LISTED or not LISTED.fullmatch(between)):
            yield chain
            chain = []
        chain.append(run)
    if chain:
        yield chain


@dataclass(frozen=True)
class Wording:
    """One wording of a finding. `words`: its finding words; `heads`: the last word of each thing that it names.

    `of_the_lesion`: it names the lesion itself ("a brown papule"). `things`: what it names, with colours.
    """

    words: frozenset[str]
    heads: frozenset[str]
    of_the_lesion: bool
    things: tuple[Thing, ...]

    def is_meant_by(self, part: frozenset[str]) -> bool:
        """True if `part`, some of its words, states it, that is, contains one of its things and enough of its words.

        Where the wording names the lesion itself, attributes alone are enough: "brown" states part of "a brown papule",
        but nothing of "brown streaks".
        """
        if not part & self.heads or part <= role("colours"):
            return self.of_the_lesion
        return part <= role("coloured") or len(part) >= MIN_SHARE * len(self.words)


@dataclass(frozen=True)
class TypicalFinding:
    """One finding with all its wordings."""

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
        """True if one reading of a text's words consists of typical findings: "a scaly red patch" consists of two.

        A thing that has a colour in the wordings must not have another one in the text: "white lacunae with red lines"
        doesn't fit "red lacunae with white lines".
        """
        colours_match = (self.colours_of.get(name, colours) >= colours for name, colours in named)
        return all(colours_match) and any(self._consists_of_findings(words) for words in readings)

    @cached_property
    def colours_of(self) -> Mapping[str, frozenset[str]]:
        """Thing -> its colours in all wordings, for things that have any."""
        found: dict[str, frozenset[str]] = {}
        for thing, colours in (named for finding in self.findings for w in finding.wordings for named in w.things):
            if colours:
                found[thing] = found.get(thing, frozenset()) | colours
        return found

    def _consists_of_findings(self, words: frozenset[str]) -> bool:
        """True if typical findings cover all words. Findings of the whole lesion don't apply to parts ("firm halo")."""
        parts = [(finding.part_of(words), finding.heads) for finding in self.findings]
        if any(part & heads for part, heads in parts) and words.isdisjoint(role("coloured")):
            parts = [(part, heads) for part, heads in parts if part & heads]
        return words == frozenset().union(*(part for part, _ in parts))

    def contains(self, word: str) -> bool:
        """True if a wording contains this word, which may be a claim of its own elsewhere: "fading gradually"."""
        return any(re.search(rf"\b{re.escape(word)}\b", wording, re.IGNORECASE) for wording in self.wordings)

    def lacks(self, words: frozenset[str]) -> bool:
        """True if the absence of what these words name is typical: "without scale"."""
        return words <= self.lacking

    def verbatim(self, text: str) -> Iterator[tuple[int, int]]:
        """The spans of `text` that repeat a wording verbatim."""
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
