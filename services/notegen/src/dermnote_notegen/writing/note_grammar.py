"""The note grammar (strategy G): a request's facts and its diagnosis's priors as one phrase grammar. Pure functions.

Every text of the grammar states each fact once and nothing else, except findings typical of the diagnosis, worded as
typical. Sampled without those, it is the fallback of every strategy. Strategy M's template is here too.
"""

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dermnote_contracts.vocabulary import diagnoses
from dermnote_notegen.writing.phrase_grammar import Alternative, Part, PhraseGrammar, Rule, resolve
from dermnote_notegen.writing.priors import Finding, Prior
from dermnote_notegen.writing.strategies import prompt_file

ADULT_FROM_YEARS = 18
TYPICAL_GROUPS = 3
MAX_GROUP_FINDINGS = 2
Rules = dict[str, Sequence[str | Alternative]]


def build_note_grammar(
    facts: Mapping[str, Any], *, prior: Prior | None, seed: int, max_words: int | None = None
) -> PhraseGrammar:
    """The grammar of one note. `prior` None: nothing typical. The seed orders lists and narrows the wordings.

    `max_words`: typical findings are omitted if a text with them could be longer; facts never are.
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
    """Three groups of typical findings; the model chooses one finding of each, in one of its wordings."""
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
    """The prior's findings, without kinds that were given: "sharp" and "typically indistinct" would contradict."""
    given = facts.get("findings", {})
    kinds = (("border", "border"), ("margin", "border"), ("symm", "asymmetry"))
    excluded = [word for word, name in kinds if name in given]
    return [f for f in prior.findings if not any(word in wording for word in excluded for wording in f.wordings)]


def _optional(value: object) -> list[str]:
    return [] if value is None else [str(value)]


def _listed(parts: Sequence[Part], word: str, *, serial: bool = False) -> Alternative:
    """(a, ", ", b, " and ", c). `serial`: a comma before the last of three or more, for parts that are lists."""
    joined: list[Part] = []
    last = f"{',' if serial and len(parts) > 2 else ''} {word} "
    for number, part in enumerate(parts):
        joined += [last if number == len(parts) - 1 else ", "] if number else []
        joined.append(part)
    return tuple(joined)
