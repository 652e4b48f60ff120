"""Relations between the phrases of a sentence: its subject, and which finding words belong together. Pure functions."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from dermnote_notegen.verify.lexicon import Match, role

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
    """Phrases that are read together: a finding with its function words, or one other phrase."""

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
    """Each thing named by the finding words, as its last word, with its colours: "red lacunae with pale septa"."""
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
    """For each finding run, the sets of words it can be read as: alone, or with its neighbours in a list.

    "Dots and globules of varying size" is one finding or two.
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


class Subject:
    """The subject of the words: this lesion, or a diagnosis in general."""

    def __init__(self) -> None:
        self.is_general = False
        self._of_this = False
        self._after_name = False

    def advance(self, match: Match, following: Match | None) -> None:
        """Read the next phrase. After a diagnosis, "around the lesion" changes nothing; "the lesion shows" does."""
        if match.is_finding:
            return
        words = set(match.words)
        names = match.value("diagnosis") is not None or match.is_of_the_diagnosis
        acts = following is not None and following.words[0] in role("verbs")
        if self._after_name and "which" in words:
            self._of_this, self.is_general = False, True
        elif following is not None and following.is_cue and words & role("pronouns"):
            pass  # "it typically shows": as a thing of its kind
        elif not names and words & role("one_lesion") and (not self.is_general or acts or words & role("pronouns")):
            self._of_this, self.is_general = True, False
        elif not self._of_this and (names or words & role("many_lesions")):
            self.is_general = True
        self._after_name = names


def _is_a_hallmark(matches: Sequence[Match], number: int) -> bool:
    """ "A raised lesion is typical of it": the lesion is a typical one, not the patient's."""
    articles = [
        match.words[0] for match in matches[:number] if match.words[0] in ("a", "an", "the", "this", "his", "her")
    ]
    verb = matches[number + 1 : number + 2]
    called = any(match.is_cue for match in matches[number + 2 : number + 5])
    return articles[-1:] in (["a"], ["an"]) and called and bool(verb) and verb[0].words[0] in role("copulas")


def is_of_this_lesion(matches: Sequence[Match]) -> bool:
    """True when a sentence speaks of the lesion at hand: by a pronoun, as what acts, or before it names anything.

    "Melanoma typically shows a halo around the lesion" does not.
    """
    named = False
    for number, (match, following) in enumerate(itertools.pairwise([*matches, None])):
        if match is None or match.is_finding or len(match.words) > 1 or _is_a_hallmark(matches, number):
            named = named or (match is not None and match.value("diagnosis") is not None)
            continue
        word = match.words[0]
        named = named or match.value("diagnosis") is not None or match.is_cue
        acts = following is not None and following.words[0] in role("verbs") and following.start == match.end + 1
        of_its_kind = following is not None and following.is_cue and word in role("pronouns")
        of_the = number > 1 and matches[number - 1].words == ("the",) and matches[number - 2].joins and not acts
        if (
            word in role("one_lesion")
            and not (of_its_kind or of_the)
            and (not named or acts or word in role("pronouns"))
        ):
            return True
    return False
