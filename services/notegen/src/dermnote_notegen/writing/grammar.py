"""The note grammar (strategy G): a request's facts and its diagnosis's priors as one phrase grammar. Pure functions.

A phrase grammar has named rules whose alternatives mix text and references to other rules; it is finite and not
recursive. `{name}` inserts a rule's text, `{Name}` inserts it capitalised. An alternative that refers to a rule without
text is dropped, unless the reference is optional: `{name?}` then inserts nothing. `{!name}` inserts nothing either; it
drops the alternative if the rule has text. A grammar is sampled with a seed, or written as GBNF to constrain a model.

Every text of the note grammar states each fact once and nothing else, except findings typical of the diagnosis, worded
as typical. A sample without typical findings is the fallback of every strategy that uses the model. The template of
strategy M is here too.
"""

import functools
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dermnote_contracts.vocabulary import diagnoses
from dermnote_notegen.writing.priors import Finding, Prior
from dermnote_notegen.writing.strategies import prompt_file

REFERENCE = re.compile(r"\{(?P<absent>!)?(?P<name>[A-Za-z][A-Za-z0-9_]*)(?P<optional>\?)?\}")
ADULT_FROM_YEARS = 18
TYPICAL_GROUPS = 3
MAX_GROUP_FINDINGS = 2


@dataclass(frozen=True)
class Rule:
    """A reference to a rule. `capital`: capitalise its first letter."""

    name: str
    capital: bool = False


Part = str | Rule
Alternative = tuple[Part, ...]
Rules = dict[str, Sequence[str | Alternative]]


class UnknownRule(ValueError):
    """A wording refers to an undefined rule."""


@dataclass(frozen=True)
class PhraseGrammar:
    """Resolved rules: every reference leads to text, and every rule has at least one alternative."""

    rules: Mapping[str, tuple[Alternative, ...]]
    root: str = "root"

    def draw(self, random_: random.Random) -> str:
        """Sample one text; all alternatives of a rule are equally likely."""
        return self._draw(Rule(self.root), random_)

    def _draw(self, rule: Rule, random_: random.Random) -> str:
        alternative = random_.choice(self.rules[rule.name])
        text = "".join(part if isinstance(part, str) else self._draw(part, random_) for part in alternative)
        return _capital(text) if rule.capital else text

    def texts(self) -> Iterator[str]:
        """Generate every text; there may be very many."""
        yield from self._texts((Rule(self.root),))

    def _texts(self, parts: Alternative) -> Iterator[str]:
        if not parts:
            yield ""
            return
        first, rest = parts[0], parts[1:]
        for tail in self._texts(rest):
            if isinstance(first, str):
                yield first + tail
                continue
            for alternative in self.rules[first.name]:
                for head in self._texts(alternative):
                    yield (_capital(head) if first.capital else head) + tail

    def most_words(self) -> int:
        """The number of words in the longest text."""

        @functools.cache
        def longest(name: str) -> str:
            texts = (
                "".join(part if isinstance(part, str) else longest(part.name) for part in alternative)
                for alternative in self.rules[name]
            )
            return max(texts, key=lambda text: len(text.split()))

        return len(longest(self.root).split())

    def narrowed(self, random_: random.Random, *, most: int) -> "PhraseGrammar":
        """A grammar with at most `most` alternatives per rule, sampled at random."""
        rules = {
            name: tuple(random_.sample(alternatives, most)) if len(alternatives) > most else alternatives
            for name, alternatives in self.rules.items()
        }
        return PhraseGrammar(rules, self.root)

    def sentences(self) -> "tuple[PhraseGrammar, ...]":
        """One grammar per sentence if the root is a plain sequence of rules; otherwise the whole grammar."""
        first, *others = self.rules[self.root]
        names = [part.name for part in first if isinstance(part, Rule) and not part.capital]
        if others or len(names) < len(first):
            return (self,)
        return tuple(PhraseGrammar(self.rules, name) for name in names)

    def gbnf(self, *, before: str = "") -> str:
        """The grammar in GBNF (llama.cpp), `root` first. `before`: a prefix of every text."""
        written: dict[Rule, str] = {}

        def reference(rule: Rule) -> str:
            if rule not in written:
                written[rule] = ""  # reserves the rule's place above the rules that it refers to
                alternatives = (_with_capital(a) if rule.capital else a for a in self.rules[rule.name])
                bodies = (" ".join(_quoted(p) if isinstance(p, str) else reference(p) for p in a) for a in alternatives)
                written[rule] = " | ".join(dict.fromkeys(bodies))
            return _gbnf_name(rule)

        begin = f"{_quoted(before)} " if before else ""
        first = f"root ::= {begin}{reference(Rule(self.root))}"
        return "\n".join([first, *(f"{_gbnf_name(rule)} ::= {body}" for rule, body in written.items())]) + "\n"


def _gbnf_name(rule: Rule) -> str:
    name = "note" if rule.name == "root" else rule.name.replace("_", "-")
    return f"{name}-capital" if rule.capital else name


@functools.lru_cache(maxsize=4096)
def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _with_capital(alternative: Alternative) -> Alternative:
    first, *rest = alternative
    return (_capital(first) if isinstance(first, str) else Rule(first.name, capital=True), *rest)


def resolve(rules: Mapping[str, Sequence[str | Alternative]], *, root: str = "root") -> PhraseGrammar:
    """Parse the wordings; drop alternatives that need a rule without text, and unused rules. Raises UnknownRule."""
    resolved: dict[str, tuple[Alternative, ...]] = {}

    def lookup(name: str) -> tuple[Alternative, ...]:
        if name not in rules:
            raise UnknownRule(f"undefined rule '{name}'")
        if name not in resolved:
            alternatives = (_resolve_alternative(alternative, lookup) for alternative in rules[name])
            resolved[name] = tuple(dict.fromkeys(a for a in alternatives if a is not None))
        return resolved[name]

    lookup(root)
    return PhraseGrammar({name: alternatives for name, alternatives in resolved.items() if alternatives}, root)


def _resolve_alternative(
    alternative: str | Alternative, lookup: Callable[[str], tuple[Alternative, ...]]
) -> Alternative | None:
    if not isinstance(alternative, str):
        return alternative if all(lookup(part.name) for part in alternative if isinstance(part, Rule)) else None
    parts: list[Part] = []
    for text, mark, name in _parse(alternative):
        parts.append(text)
        rule = name[:1].lower() + name[1:]
        derivable = bool(rule) and bool(lookup(rule))
        if name and bool(mark == "!") == derivable and mark != "?":
            return None
        if derivable:
            parts.append(Rule(rule, capital=name[0].isupper()))
    return tuple(part for part in parts if part)


@functools.lru_cache(maxsize=4096)
def _parse(alternative: str) -> tuple[tuple[str, str, str], ...]:
    """(preceding text, "!" or "?" or "", name) per reference, then the text after the last one, with an empty name."""
    references, end = [], 0
    for match in REFERENCE.finditer(alternative):
        references.append((alternative[end : match.start()], match["absent"] or match["optional"] or "", match["name"]))
        end = match.end()
    return (*references, (alternative[end:], "", ""))


def build_note_grammar(
    facts: Mapping[str, Any], *, prior: Prior | None, seed: int, max_words: int | None = None
) -> PhraseGrammar:
    """The grammar of one note, without typical findings if `prior` is None. The seed orders lists and selects wordings.

    `max_words`: typical findings are omitted if a text with them could be longer; facts are never omitted.
    """
    random_ = random.Random(f"compose/{seed}")
    prompts = prompt_file("G")
    rules: Rules = dict(prompts.wordings)
    rules |= _person(facts, prompts.words) | _plain(facts, prompts.words) | _outcome(facts)
    rules |= _history(facts) | _symptoms(facts, prompts.words, random_) | _findings(facts, prompts.words, random_)
    rules |= _typical(prior, facts, random_)
    grammar = resolve(rules).narrowed(random_, most=prompts.most_alternatives)
    if prior is not None and max_words is not None and grammar.most_words() > max_words:
        return build_note_grammar(facts, prior=None, seed=seed)
    return grammar


def write_skeleton(facts: Mapping[str, Any], *, seed: int) -> str:
    """A note without a model and without typical findings: the facts, in a wording chosen by the seed."""
    return build_note_grammar(facts, prior=None, seed=seed).draw(random.Random(f"skeleton/{seed}"))


def write_template(facts: Mapping[str, Any]) -> str:
    """Strategy M (arXiv 2511.21827): superclass, class and subclass of the diagnosis in one fixed template."""
    diagnosis = diagnoses()[facts["diagnosis"]]
    rules: Rules = dict(prompt_file("M").wordings)
    rules |= {
        "a_superclass": [article(diagnosis.superclass)],
        "class_name": [written(diagnosis.class_name)],
        "subclass": _optional(None if diagnosis.name == diagnosis.class_name else written(diagnosis.name)),
    }
    return next(resolve(rules).texts())


def person_in_short(facts: Mapping[str, Any]) -> str:
    """The patient by age and sex: "64-year-old woman", "patient"."""
    rules = _person(facts, prompt_file("G").words)
    noun, age = rules["noun"][0], facts.get("age")
    return str(noun) if age is None else f"{age}-year-old {noun}"


def article(phrase: str) -> str:
    """`phrase` with "a" or "an" before it ("an 8-year-old girl", "a nevus")."""
    number = re.match(r"\d+", phrase)
    vowel = number[0][0] == "8" or number[0] in ("11", "18") if number else phrase[:1].lower() in "aeiou"
    return f"{'an' if vowel else 'a'} {phrase}"


def written(diagnosis: str) -> str:
    """A diagnosis as written in a sentence: eponyms are capitalised ("Merkel cell carcinoma")."""
    eponyms = {name.lower(): name for name in prompt_file("G").words["eponyms"]["words"]}
    return " ".join(eponyms.get(word, word) for word in diagnosis.split())


def _person(facts: Mapping[str, Any], words: Mapping[str, Any]) -> Rules:
    age = facts.get("age")
    kind = "child" if age is not None and age < ADULT_FROM_YEARS and "sex" in facts else "sex"
    return {
        "noun": words[kind][facts.get("sex", "unknown")],
        "age": [] if age is None else [str(age)],
        "years": [] if age is None else ["1 year" if age == 1 else f"{age} years"],
        "an_age": [] if age is None else [article(str(age))],
        "fitzpatrick": _optional(facts.get("fitzpatrick_skin_type")),
    }


def _plain(facts: Mapping[str, Any], words: Mapping[str, Any]) -> Rules:
    image_type = facts.get("image_type")
    return {
        "site": _optional(facts.get("site")),
        "mm": _optional(facts.get("clin_size_long_diam_mm")),
        "a_picture": words["image_type"][image_type] if image_type else [],
    }


def _outcome(facts: Mapping[str, Any]) -> Rules:
    diagnosis = facts.get("diagnosis")
    superclass = diagnoses()[diagnosis].superclass if diagnosis else None
    return {
        "diagnosis": _optional(diagnosis and written(diagnosis)),
        "superclass": _optional(superclass if superclass in ("benign", "pre-cancerous", "malignant") else None),
        "bm": _optional(facts.get("benign_malignant")),
    }


def _history(facts: Mapping[str, Any]) -> Rules:
    def phrase(value: bool, *, joined: str, before: str) -> list[str]:
        kinds = [name for name in ("personal", "family") if facts.get(f"{name}_hx_mm") is value]
        return [f"{before}{joined.join(kinds)} history of melanoma"] if kinds else []

    return {
        "hx_yes": phrase(True, joined=" and a ", before="a "),
        "hx_no": phrase(False, joined=" or ", before=""),
    }


def _symptoms(facts: Mapping[str, Any], words: Mapping[str, Any], random_: random.Random) -> Rules:
    given = facts.get("symptoms", {})
    rules: Rules = {f"sx_{name}": words["symptoms"][name] for name in given}
    for answer, word in (("yes", "and"), ("no", "or")):
        names = [name for name in given if given[name] == answer]
        random_.shuffle(names)
        rules[f"sx_{answer}"] = [_listed([Rule(f"sx_{name}") for name in names], word)] if names else []
    return rules


def _findings(facts: Mapping[str, Any], words: Mapping[str, Any], random_: random.Random) -> Rules:
    given = facts.get("findings", {})
    rules: Rules = {f"f_{name}": words[name][given[name]] for name in ("asymmetry", "border") if name in given}
    if colours := list(given.get("colours", ())):
        random_.shuffle(colours)
        rules["colours"] = ["".join(map(str, _listed(colours, "and")))]
        rules["f_colours"] = words["colours"]["one" if len(colours) == 1 else "many"]
    structures = list(given.get("structures", ()))
    for number, term in enumerate(structures):
        rules[f"f_structure{number}"] = words["structures"][term]
    names = [name for name in rules if name.startswith("f_")]
    random_.shuffle(names)
    rules["f_list"] = [_listed([Rule(name) for name in names], "and", serial=True)] if names else []
    return rules


def _typical(prior: Prior | None, facts: Mapping[str, Any], random_: random.Random) -> Rules:
    """Up to three groups of typical findings; from each, the model chooses one finding in one of its wordings."""
    findings = list(usable_findings(prior, facts)) if prior else []
    random_.shuffle(findings)
    groups = [
        findings[start::TYPICAL_GROUPS][:MAX_GROUP_FINDINGS] for start in range(min(TYPICAL_GROUPS, len(findings)))
    ]
    rules: Rules = {
        f"t{number}": [wording for finding in group for wording in finding.wordings]
        for number, group in enumerate(groups)
    }
    rules["t_list"] = [_listed([Rule(name) for name in rules], "and", serial=True)] if len(groups) > 1 else []
    return rules


def usable_findings(prior: Prior, facts: Mapping[str, Any]) -> Sequence[Finding]:
    """The prior's findings without the kinds that the facts give: a given sharp border excludes "indistinct border"."""
    given = facts.get("findings", {})
    kinds = (("border", "border"), ("margin", "border"), ("symm", "asymmetry"))
    excluded = [word for word, name in kinds if name in given]
    return [f for f in prior.findings if not any(word in wording for word in excluded for wording in f.wordings)]


def _optional(value: object) -> list[str]:
    return [] if value is None else [str(value)]


def _listed(parts: Sequence[Part], word: str, *, serial: bool = False) -> Alternative:
    """(a, ", ", b, " and ", c). `serial`: with a comma before `word` if there are three parts or more."""
    joined: list[Part] = []
    last = f"{',' if serial and len(parts) > 2 else ''} {word} "
    for number, part in enumerate(parts):
        joined += [last if number == len(parts) - 1 else ", "] if number else []
        joined.append(part)
    return tuple(joined)
