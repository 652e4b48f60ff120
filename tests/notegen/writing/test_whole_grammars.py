"""The grammar of a whole note: every wording of every sentence, field by field, and as two other parsers read it."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermnote_notegen.engine.model import find_weights
from dermnote_notegen.verify import Verifier
from dermnote_notegen.writing.grammar import PhraseGrammar, build_note_grammar
from dermnote_notegen.writing.priors import load_priors
from tests.effort import amount
from tests.notegen.invented import lesions

llguidance = pytest.importorskip("llguidance")

PRIORS = load_priors()
VERIFIER = Verifier(PRIORS)
BYTES = llguidance.LLTokenizer("byte")
SEEDS = st.integers(0, 2**31 - 1)
SENTENCES = [
    "presentation", "history", "size", "symptoms", "picture", "findings", "typical", "documentation", "outcome",
]  # fmt: skip
FULL: dict[str, Any] = {
    "age": 61,
    "sex": "female",
    "site": "scalp",
    "diagnosis": "nodular melanoma",
    "benign_malignant": "malignant",
    "image_type": "dermoscopic",
    "fitzpatrick_skin_type": "III",
    "clin_size_long_diam_mm": 7,
    "personal_hx_mm": True,
    "family_hx_mm": False,
    "symptoms": {"itch": "yes", "hurt": "no", "grew": "yes", "changed": "no", "bleed": "yes", "elevation": "no"},
    "findings": {
        "asymmetry": "asymmetric",
        "border": "indistinct",
        "colours": ["black", "red"],
        "structures": ["dots", "globules"],
    },
}
# What a note says of a field, in any wording: none of it may stand where the field is not given.
TRACES = {
    "age": ["61", "year", "aged"],
    "sex": ["woman", "female"],
    "site": ["scalp"],
    "diagnosis": ["nodular melanoma", "diagnos"],
    "benign_malignant": ["recorded as malignant", "is malignant", ", malignant", "classified as malignant"],
    "image_type": ["dermoscop"],
    "fitzpatrick_skin_type": ["Fitzpatrick", "III"],
    "clin_size_long_diam_mm": ["7", " mm"],
    "personal_hx_mm": ["personal"],
    "family_hx_mm": ["family"],
    "symptoms": ["itch", "pain", "sore", "growth", "enlarge", "change", "bleed", "elevat", "report", "den", "positive"],
    "findings": ["symm", "indistinct", "ill-defined", "red", "dots", "globules"],
}


def grammar(facts: Mapping[str, Any], *, seed: int, typical: bool = True) -> PhraseGrammar:
    prior = PRIORS.get(facts.get("diagnosis", "")) if typical else None
    return build_note_grammar(facts, prior=prior, seed=seed)


def sentences(facts: Mapping[str, Any], *, seed: int) -> dict[str, PhraseGrammar]:
    """The sentences of a note of these facts, each as a separate grammar."""
    rules = grammar(facts, seed=seed).rules
    return {name: PhraseGrammar(rules, root=name) for name in SENTENCES if name in rules}


def wordings(sentence: PhraseGrammar) -> set[str]:
    """All wordings, or a sample of 300 if there are more."""
    texts = list(islice(sentence.texts(), 301))
    if len(texts) <= 300:
        return set(texts)
    return {sentence.draw(random.Random(number)) for number in range(300)}


def without(name: str) -> dict[str, Any]:
    return {other: value for other, value in FULL.items() if other != name}


def test_the_list_of_sentences_is_complete() -> None:
    assert set(sentences(FULL, seed=1)) | set(sentences({"site": "scalp"}, seed=1)) == set(SENTENCES)


@pytest.mark.parametrize("facts", [FULL, {"site": "scalp"}, *map(without, FULL)], ids=["full", "bare", *FULL])
def test_no_wording_of_any_sentence_claims_anything_not_given(facts: dict[str, Any]) -> None:
    for seed in range(amount(2, 6)):
        for sentence in sentences(facts, seed=seed).values():
            for text in wordings(sentence):
                verdict = VERIFIER.verify(text.strip(), facts=facts).verification
                assert not [*verdict.unsupported, *verdict.contradicted], (text, verdict)


@pytest.mark.parametrize("name", FULL)
def test_a_field_appears_in_every_note_that_has_it_and_in_no_other(name: str) -> None:
    traces = TRACES[name]

    for seed in range(60):
        with_it, without_it = (
            grammar(facts, seed=seed, typical=False).draw(random.Random(seed)) for facts in (FULL, without(name))
        )
        assert any(trace in with_it for trace in traces), with_it
        assert not any(trace in without_it for trace in traces), without_it


@settings(max_examples=100, deadline=None)
@given(facts=lesions(), seed=SEEDS)
def test_the_gbnf_accepts_every_sampled_note(facts: dict[str, Any], seed: int) -> None:
    whole = grammar(facts, seed=seed)
    matcher = llguidance.LLMatcher(BYTES, llguidance.grammar_from("gbnf", whole.gbnf(before=" ")))
    text = " " + whole.draw(random.Random(seed))

    assert matcher.consume_tokens(BYTES.tokenize_str(text)), matcher.get_error()
    assert matcher.is_accepting()


@pytest.mark.parametrize("change", [str.upper, lambda text: text + " It is benign.", lambda text: text[:-1] + "!"])
def test_the_gbnf_rejects_other_words(change: Callable[[str], str]) -> None:
    whole = grammar(FULL, seed=1)
    matcher = llguidance.LLMatcher(BYTES, llguidance.grammar_from("gbnf", whole.gbnf(before=" ")))
    tokens = BYTES.tokenize_str(" " + change(whole.draw(random.Random(1))))

    assert matcher.validate_tokens(tokens) < len(tokens)


# Run apart, since importing llama.cpp leaves files open. The vocabulary of the GGUF is loaded, not its weights.
READ = """
import json, sys, llama_cpp
model = llama_cpp.Llama(sys.argv[1], vocab_only=True, verbose=False)
init, vocabulary = llama_cpp.llama_sampler_init_grammar, model._model.vocab
json.dump([bool(init(vocabulary, text.encode(), b"root")) for text in json.load(sys.stdin)], sys.stdout)
"""


@pytest.mark.gguf
def test_llama_cpp_accepts_the_grammar_of_any_note_and_no_invalid_one() -> None:
    _, weights, _ = find_weights("smollm2")
    cases = [
        FULL,
        *map(without, FULL),
        *({name: FULL[name]} for name in FULL),
        *({"diagnosis": name} for name in PRIORS),
    ]
    written = [grammar(facts, seed=seed).gbnf(before=" ") for facts in cases for seed in range(2)]

    done = subprocess.run(
        [sys.executable, "-c", READ, str(weights)],
        input=json.dumps([*written, written[0] + "other ::= ("]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )

    *read, nonsense = json.loads(done.stdout)
    assert (len(read), all(read), nonsense) == (len(written), True, False)
