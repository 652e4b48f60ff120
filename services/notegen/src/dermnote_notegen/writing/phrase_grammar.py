"""Phrase grammars: named rules whose alternatives mix text and references to other rules. Pure, finite, not recursive.

`{name}` inserts a rule, `{Name}` its text capitalised, `{name?}` nothing if the rule has no text; `{!name}` keeps the
alternative only if the rule has none. A grammar is sampled with a seed, or written as GBNF to constrain a model.
"""

import functools
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

REFERENCE = re.compile(r"\{(?P<absent>!)?(?P<name>[A-Za-z][A-Za-z0-9_]*)(?P<optional>\?)?\}")


@dataclass(frozen=True)
class Rule:
    """A reference to a rule. `capital`: capitalise its first letter."""

    name: str
    capital: bool = False


Part = str | Rule
Alternative = tuple[Part, ...]


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
        """Words of the longest text."""

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
        """One grammar per rule in the root's sequence; the whole grammar if the root isn't such a sequence."""
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
                written[rule] = ""  # reserves its place above the rules that it refers to
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
    """Parse the wordings; drop alternatives without text and rules that `root` doesn't reach. Raises UnknownRule."""
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
    """(preceding text, "!" or "?" or "", name) of each reference; the text after the last one has no name."""
    references, end = [], 0
    for match in REFERENCE.finditer(alternative):
        references.append((alternative[end : match.start()], match["absent"] or match["optional"] or "", match["name"]))
        end = match.end()
    return (*references, (alternative[end:], "", ""))
