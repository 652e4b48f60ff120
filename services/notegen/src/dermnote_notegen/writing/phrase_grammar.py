"""Phrase grammars: named rules whose alternatives hold text and references to other rules. Pure, finite, not recursive.

`{name}` takes the rule, `{Name}` its text with a capital, `{name?}` nothing where the rule has no text, `{!name}` keeps
the alternative only where the rule has none. A grammar is drawn from with a seed, or written as GBNF for a model.
"""

import functools
import json
import operator
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

REFERENCE = re.compile(r"\{(?P<absent>!)?(?P<name>[A-Za-z][A-Za-z0-9_]*)(?P<optional>\?)?\}")


@dataclass(frozen=True)
class Rule:
    """A reference to a rule; `capital`: its first letter in upper case."""

    name: str
    capital: bool = False


Part = str | Rule
Alternative = tuple[Part, ...]


class UnknownRule(ValueError):
    """A wording names a rule that nothing defines."""


@dataclass(frozen=True)
class PhraseGrammar:
    """Resolved rules: every reference has text behind it, every rule at least one alternative."""

    rules: Mapping[str, tuple[Alternative, ...]]
    root: str = "root"
    _longest_texts: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def draw(self, random_: random.Random) -> str:
        """One text of the grammar; every alternative of a rule is as likely as its neighbours."""
        return self._draw(Rule(self.root), random_)

    def _draw(self, rule: Rule, random_: random.Random) -> str:
        alternative = random_.choice(self.rules[rule.name])
        text = "".join(part if isinstance(part, str) else self._draw(part, random_) for part in alternative)
        return _capital(text) if rule.capital else text

    def texts(self) -> Iterator[str]:
        """Every text; there may be very many."""
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
        return len(self._longest(self.root).split())

    def _longest(self, name: str) -> str:
        if name not in self._longest_texts:
            texts = (
                "".join(part if isinstance(part, str) else self._longest(part.name) for part in alternative)
                for alternative in self.rules[name]
            )
            self._longest_texts[name] = max(texts, key=lambda text: len(text.split()))
        return self._longest_texts[name]

    def count(self) -> int:
        """How many derivations there are."""
        return self._count[self.root]

    @cached_property
    def _count(self) -> dict[str, int]:
        counts: dict[str, int] = {}

        def of(name: str) -> int:
            if name not in counts:
                counts[name] = sum(
                    _product(of(part.name) for part in alternative if isinstance(part, Rule))
                    for alternative in self.rules[name]
                )
            return counts[name]

        of(self.root)
        return counts

    def narrowed(self, random_: random.Random, *, most: int) -> "PhraseGrammar":
        """The grammar with at most `most` alternatives a rule, drawn without order."""
        kept = {
            name: tuple(random_.sample(alternatives, most)) if len(alternatives) > most else alternatives
            for name, alternatives in self.rules.items()
        }
        return PhraseGrammar(kept, self.root)

    def sentences(self) -> "tuple[PhraseGrammar, ...]":
        """One grammar for each rule that the root puts in a row; the whole grammar where the root is not such a row."""
        first, *others = self.rules[self.root]
        names = [part.name for part in first if isinstance(part, Rule) and not part.capital]
        if others or len(names) < len(first):
            return (self,)
        return tuple(PhraseGrammar(self.rules, name) for name in names)

    def gbnf(self, *, before: str = "") -> str:
        """The grammar in llama.cpp's notation, `root` first; `before` is text that every text begins with."""
        written: dict[Rule, str] = {}

        def reference(rule: Rule) -> str:
            if rule not in written:
                written[rule] = ""  # keeps the order: a rule stands above those that it names
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


def _product(numbers: Iterable[int]) -> int:
    return functools.reduce(operator.mul, numbers, 1)


def resolve(rules: Mapping[str, Sequence[str | Alternative]], *, root: str = "root") -> PhraseGrammar:
    """Parse the wordings, drop what has no text behind it, keep what `root` reaches. Raises UnknownRule."""
    found: dict[str, tuple[Alternative, ...]] = {}

    def of(name: str) -> tuple[Alternative, ...]:
        if name not in rules:
            raise UnknownRule(f"no rule '{name}'")
        if name not in found:
            alternatives = (_resolved(alternative, of) for alternative in rules[name])
            found[name] = tuple(dict.fromkeys(a for a in alternatives if a is not None))
        return found[name]

    of(root)
    return PhraseGrammar({name: alternatives for name, alternatives in found.items() if alternatives}, root)


def _resolved(alternative: str | Alternative, of: Callable[[str], tuple[Alternative, ...]]) -> Alternative | None:
    if not isinstance(alternative, str):
        return alternative if all(of(part.name) for part in alternative if isinstance(part, Rule)) else None
    parts: list[Part] = []
    for text, mark, name in _parsed(alternative):
        parts.append(text)
        rule = name[:1].lower() + name[1:]
        derivable = bool(rule) and bool(of(rule))
        if name and bool(mark == "!") == derivable and mark != "?":
            return None
        if derivable:
            parts.append(Rule(rule, capital=name[0].isupper()))
    return tuple(part for part in parts if part)


@functools.lru_cache(maxsize=4096)
def _parsed(alternative: str) -> tuple[tuple[str, str, str], ...]:
    """(text before it, "!" or "?" or "", name) of each reference; the text behind the last has no name."""
    found, end = [], 0
    for match in REFERENCE.finditer(alternative):
        found.append((alternative[end : match.start()], match["absent"] or match["optional"] or "", match["name"]))
        end = match.end()
    return (*found, (alternative[end:], "", ""))
