"""How meaning moves through a sentence: negation, whom it is about, and which finding words belong together. Pure."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from dermnote_notegen.verify.lexicon import Match, role

DENIED_AFTER = re.compile(
    r"\b(?:is|are|was|were|has|have)(?:\s+(?:all|both|each|been))*"
    r"(?:n['’]t\b|\s+(?:absent|denied|negative|lacking|missing|never|not)\b|\s+free\s*(?:[.;]|$))|^\s*denied\b",
    re.IGNORECASE,
)
# "Itching: no", "itching (absent)", "itching -", "itch-free"; "itching - no bleeding" says something else.
_ENDS = r"\s*(?:[.;,)|]|$)"
DENIED_AT_ONCE = re.compile(
    r"\s*[:=(]\s*(?:no|false|none)\b|-free\b"
    r"|\s*\(?[-–−](?:ve)?\)?\s*(?:[.;,|]|$)|\s*,\s*(?:no|nil)\s*(?:[.;|]|$)"
    r"|\s+(?:(?:and|or) \w+ )?(?:he|she|the patient) denies\s*(?:[.;,]|$)"  # "bleeding and pain he denies"
    r"|\s+(?:he|she|it) (?:has|does|did|is|was|had) not\b[^.;,]{,12}(?:[.;,]|$)"  # "pain it does not give"
    r"|\s*[:=(–—-]?\s*(?:not(?: (?:present|reported|noted|recorded|seen|involved|affected|done))?|absent|denied"
    rf"|negative|neg|none|no|nil|missing|(?-i:N)){_ENDS}",
    re.IGNORECASE,
)
LISTED = re.compile(
    r"[\s,+-]*(?:(?:and|or|as|well|with|an?|the|is|are|usually|typically|often|commonly|generally)[\s,]+)*",
    re.IGNORECASE,
)
LIKEWISE = re.compile(r"\b(?:as|so) (?:is|was|are|were|has|have) (?:the |any )?$", re.IGNORECASE)
DENIED_BEFORE = re.compile(r"\b(?:no|not|nor|neither|without|absent|denied|denies|negative|lacking)\b", re.IGNORECASE)
OTHER_SUBJECT = re.compile(r"\b(?:is|are|was|were|it|he|she|patient|lesion|that|which|who)\b", re.IGNORECASE)
AFFIRMED_AFTER = re.compile(
    r"\s*(?:(?:is|was|are|were) )?(?:reported|present|noted|positive|yes|confirmed)\b|\s*\(?\+", re.IGNORECASE
)
AND = re.compile(r"\band\s+$", re.IGNORECASE)
OR = re.compile(r"\b(?:or|nor)\b", re.IGNORECASE)
# "Elevation, pain and itching are lacking".
ALL_DENIED_AFTER = re.compile(
    r"(?:,? (?:and |or )?[\w-]+){1,4} (?:are|were) (?:all |both )?"
    r"(?:absent|denied|lacking|missing|negative|not (?:present|reported|noted|seen))\b",
    re.IGNORECASE,
)
# Where one named thing ends and the next begins.
THING_ENDS = re.compile(
    r"[,;]|\b(?:and|or|of|with|to|in|on|by|at|around|within|throughout|over|under|between|that|without)\b"
)
MOST_LISTED = 12


# A thing that a text names, and its colours: "lacunae", red.
Thing = tuple[str, frozenset[str]]


@dataclass(frozen=True)
class Run:
    """Words that are read together: a finding with the small words in it, or one other phrase."""

    matches: tuple[Match, ...]

    @property
    def is_finding(self) -> bool:
        """True when it says how a lesion looks."""
        return self.matches[0].is_finding

    def things(self, text: str) -> tuple[Thing, ...]:
        """What it names that has a colour."""
        named = things([match for match in self.matches if match.is_finding], text)
        return tuple((name, colours) for name, colours in named if colours and name not in role("colours"))

    @cached_property
    def words(self) -> frozenset[str]:
        """Its finding words."""
        return frozenset(word for match in self.matches if match.is_finding for word in match.finding_words)


def runs(matches: Sequence[Match], text: str) -> Iterator[Run]:
    """The matches in groups, in order: finding words that only small words part are one run."""
    held: list[Match] = []
    small: list[Match] = []
    for match in matches:
        together = bool(held) and not re.search(r"[,;:()]", text[held[-1].end : match.start])
        if together and match.is_finding:
            held += [*small, match]
            small = []
        elif together and match.joins:
            small.append(match)
        else:
            yield from _ended(held, small)
            held, small = ([match], []) if match.is_finding else ([], [])
            if not match.is_finding:
                yield Run((match,))
    yield from _ended(held, small)


def _ended(held: list[Match], small: list[Match]) -> Iterator[Run]:
    if held:
        yield Run(tuple(held))
    yield from (Run((match,)) for match in small)


def things(findings: Sequence[Match], text: str) -> Iterator[Thing]:
    """Each thing that the finding words name, by its last word, with its colours: "red lacunae with pale septa"."""
    colours: set[str] = set()
    for match, following in itertools.pairwise([*findings, None]):
        if match is not None:
            colours |= _hues(match.words)
            if following is None or THING_ENDS.search(text[match.end : following.start]):
                yield match.finding_words[-1], frozenset(colours)
                colours = set()


def _hues(said: Sequence[str]) -> set[str]:
    """The colours in a phrase, "reddish" and "erythematous" as "red"."""
    found = {word for word in said if word in role("colours") and word not in role("shades")}
    return {"red" if hue in ("erythematous", "reddish") else hue.removesuffix("ish") for hue in found}


def readings(all_runs: Sequence[Run], text: str) -> dict[Run, tuple[frozenset[str], ...]]:
    """For each finding run, the sets of words that it can be read as: alone, or with neighbours of its list.

    "Dots and globules of varying size" is one finding or two.
    """
    found: dict[Run, tuple[frozenset[str], ...]] = {}
    for chain in _chains([run for run in all_runs if run.is_finding], text):
        for number, run in enumerate(chain):
            spans = itertools.product(range(number + 1), range(number + 1, len(chain) + 1))
            found[run] = tuple(frozenset().union(*(part.words for part in chain[a:b])) for a, b in spans)
    return found


def _chains(findings: Sequence[Run], text: str) -> Iterator[list[Run]]:
    """Finding runs that only commas, "and" and "or" part."""
    chain: list[Run] = []
    for run in findings:
        between = text[chain[-1].matches[-1].end : run.matches[0].start] if chain else ""
        if chain and (len(chain) == MOST_LISTED or not LISTED.fullmatch(between)):
            yield chain
            chain = []
        chain.append(run)
    if chain:
        yield chain


def _kind(match: Match) -> str:
    """What a phrase claims, coarsely: symptoms, findings, or its field."""
    return match.meanings[0].field.split(".")[0] if match.meanings else ""


class Negation:
    """Whether what comes next is denied: from a negating word to a word or a comma that takes it back."""

    def __init__(self, text: str) -> None:
        self.is_on = False
        self._text = text
        self._negator = ""
        self._denied_kind: str | None = None
        self._fresh = self._parted = False
        self._before = ""
        self._end = 0
        self._behind_non: bool | None = None

    def pass_over(self, match: Match) -> None:
        """A phrase that claims something by what it lacks ("non-cancerous") denies nothing behind it."""
        gap = self._text[self._end : match.start]
        self._end = match.end
        self._parted = self._parted or "," in gap
        verb_ends = self._negator in role("negate_one") and match.words[0] in role("finite") and AND.search(gap)
        if verb_ends:  # "does not hurt and bleeds"
            self.is_on = False
        if "|" in gap or (self.is_on and self._parted and match.claims and self._ends_at_comma(match)):
            self.is_on = False
        if self._behind_non is not None and self._before != "non":
            self.is_on, self._behind_non = self._behind_non, None
        if match.words == ("non",):  # "non-bleeding" denies one word
            self._behind_non = self.is_on
        if match.claims:
            self._fresh = self._parted = False
            self._denied_kind = self._denied_kind or _kind(match)
        for word in () if match.claims else match.words:
            if word in role("negators") and not self._is_predicate(match):
                self.is_on, self._fresh, self._parted = True, True, False
                self._negator, self._denied_kind = word, None
            elif word not in role("resets"):
                self._fresh = self._fresh and word in role("fresh")  # "denies that it itches"
            elif not self._fresh:  # "nor is it": these words do not end what they follow
                self.is_on = False
        self._before = match.words[-1]

    def _ends_at_comma(self, match: Match) -> bool:
        """ "Not itchy, raised", "no pain, growth reported", "without pain, red": what a comma parts is not denied.

        "No itching, bleeding or pain" is denied as a whole.
        """
        if AFFIRMED_AFTER.match(self._text, match.end) or self._denied_kind not in (None, _kind(match)):
            return True
        return self._negator in role("negate_one") and not OR.search(self._text, match.start)

    def _is_predicate(self, match: Match) -> bool:
        """ "Pain is absent" denies what stands before it."""
        return match.words[0] in role("predicates") and len(match.words) == 1 and self._before in role("copulas")


def is_denied_after(text: str, end: int) -> bool:
    """ "Itching was denied", "itching (no)". `end`: where the claim ends."""
    return denial_after(text, end) is not None


def denial_after(text: str, end: int) -> int | None:
    """From where a denial of what stands before `end` may be one of what follows; None without a denial."""
    if DENIED_AT_ONCE.match(text, end):
        return len(text)
    rest = re.split(r"[,:]|\b(?:but|while|and (?:is|was|has))\b", text[end:])[0]
    denial = DENIED_AFTER.search(rest)
    if denial is None or OTHER_SUBJECT.search(rest, 0, denial.start()):
        return None
    return end + denial.end()


def is_denied_likewise(text: str, start: int) -> bool:
    """ "Itching is denied, as is bleeding", "itch is absent, and so is pain": said as what stands before it."""
    likewise = LIKEWISE.search(text, 0, start)
    return likewise is not None and DENIED_BEFORE.search(text, 0, likewise.start()) is not None


def is_denied_with_others(match: Match, text: str) -> bool:
    """ "Elevation, pain and itching are lacking": said of the first of several nouns."""
    return match.words[-1] in role("symptom_nouns") and ALL_DENIED_AFTER.match(text, match.end) is not None


class Subject:
    """Whom the words are about: this lesion, or a diagnosis in general."""

    def __init__(self) -> None:
        self.is_general = False
        self._of_this = False
        self._after_name = False

    def pass_over(self, match: Match, following: Match | None) -> None:
        """ "Around the lesion" changes nothing once a diagnosis is spoken of; "the lesion shows" does."""
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
    """ "A raised lesion is typical of it": what acts is no lesion at hand but what is called typical."""
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
        if word in role("one_lesion") and not of_its_kind and (not named or acts or word in role("pronouns")):
            return True
    return False
