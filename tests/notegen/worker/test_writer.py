"""Writing a note: retries, fallback, reject, keep, variants, and where its text came from."""

import subprocess
import sys
from typing import Any

import pytest
from rq.utils import import_attribute

from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_contracts.notes import ModelInfo, Note, NoteRequest
from dermnote_contracts.problems import NoteUnfaithful
from dermnote_notegen.engine.scripted import ScriptedModel
from dermnote_notegen.queue.rq_queue import TASK
from dermnote_notegen.worker.writer import MIN_DECISIONS, NoteWriter, tidy, write_note
from dermnote_notegen.writing.priors import load_priors

FACTS = {"age": 61, "sex": "female", "site": "back", "diagnosis": "melanoma"}
GOOD = "A 61-year-old woman presents with a melanoma on the back."
BAD = "A 61-year-old man presents with a melanoma on the back."


class Scripted:
    """The scripted model as the worker sees an engine."""

    model = ModelInfo(name="scripted", sha256="0" * 64, context_tokens=1000, engine="scripted")

    def __init__(self, *texts: str) -> None:
        self.script = ScriptedModel(list(texts))

    def complete(self, request: CompletionRequest) -> CompletionResponse:
        return self.script.complete(request, cancelled=lambda: False)


def request(strategy: str = "P2", metadata: dict[str, Any] | None = None, **options: Any) -> NoteRequest:
    return NoteRequest.model_validate({"metadata": metadata or FACTS, "strategy": strategy, "options": options})


def write(note_request: NoteRequest, *, engine: Scripted, seed: int) -> list[Note]:
    return NoteWriter(engine, load_priors()).write(note_request, seed=seed)


def test_an_unfaithful_text_is_retried_with_another_seed() -> None:
    engine = Scripted(BAD, BAD, GOOD)

    (note,) = write(request(), engine=engine, seed=1)

    assert note.text == GOOD
    assert (note.provenance.attempts, note.provenance.source) == (3, "llm")
    assert note.provenance.tokens.sampled == 3 * len(GOOD.split())
    assert len({completion.seed for completion in engine.script.requests}) == 3


def test_deterministic_applies_to_every_attempt_and_the_seeds_follow_from_the_given_one() -> None:
    first, again, without = Scripted(BAD, BAD, GOOD), Scripted(BAD, BAD, GOOD), Scripted(BAD, BAD, GOOD)

    for engine in (first, again):
        write(request(deterministic=True), engine=engine, seed=1)
    write(request(), engine=without, seed=1)

    assert [completion.deterministic for completion in first.script.requests] == [True] * 3
    assert first.script.requests == again.script.requests
    assert [completion.deterministic for completion in without.script.requests] == [False] * 3


def test_after_four_unfaithful_texts_the_template_replaces_the_text() -> None:
    (note,) = write(request(), engine=Scripted(BAD), seed=1)

    assert (note.provenance.attempts, note.provenance.source) == (4, "template")
    assert note.verification.faithful


def test_the_policies_fallback_reject_and_keep_make_one_attempt() -> None:
    (fallen,) = write(request(on_unfaithful="fallback"), engine=Scripted(BAD), seed=1)
    (kept,) = write(request(on_unfaithful="keep"), engine=Scripted(BAD), seed=1)

    assert (fallen.provenance.attempts, fallen.provenance.source) == (1, "template")
    assert (kept.text, kept.provenance.source, kept.verification.faithful) == (BAD, "llm", False)
    assert kept.verification.contradicted[0].field == "sex"
    with pytest.raises(NoteUnfaithful):
        write(request(on_unfaithful="reject"), engine=Scripted(BAD), seed=1)


def test_variants_differ_and_the_same_seed_gives_the_same_notes() -> None:
    one = write(request(n=4), engine=Scripted(BAD), seed=7)
    again = write(request(n=4), engine=Scripted(BAD), seed=7)

    assert len({note.text for note in one}) == 4
    assert [note.text for note in one] == [note.text for note in again]


def test_a_duplicate_variant_is_retried_under_every_policy() -> None:
    other = GOOD.replace("presents with", "has")

    kept = write(request(n=2, on_unfaithful="keep"), engine=Scripted(BAD, BAD, GOOD), seed=1)
    first, second = write(request(n=2, on_unfaithful="fallback"), engine=Scripted(GOOD, GOOD, GOOD, other), seed=1)

    assert [note.text for note in kept] == [BAD, GOOD]
    assert (first.text, second.text) == (GOOD, other)
    assert (first.provenance.attempts, second.provenance.attempts) == (1, 3)


def test_the_second_variant_is_the_template_if_the_model_only_repeats_itself() -> None:
    first, second = write(request(n=2), engine=Scripted(GOOD), seed=1)

    assert (first.text, first.provenance.source) == (GOOD, "llm")
    assert second.text != GOOD
    assert (second.provenance.source, second.verification.faithful) == ("template", True)


def test_strategy_m_never_uses_the_model() -> None:
    engine = Scripted(BAD)

    (note,) = write(request("M", {"diagnosis": "superficial spreading melanoma"}), engine=engine, seed=1)

    assert engine.script.requests == []
    assert note.verification.faithful
    for words in ("malignant", "class melanoma", "superficial spreading melanoma"):
        assert words in note.text
    assert note.provenance.source == "template"


def test_a_blinded_note_never_includes_a_diagnosis_named_by_the_model() -> None:
    blinded = NoteRequest.model_validate({"metadata": FACTS, "strategy": "P2", "include": ["demographics", "site"]})

    (note,) = write(blinded, engine=Scripted("A 61-year-old woman with a melanoma on the back."), seed=1)

    assert note.provenance.source == "template"
    assert "melanoma" not in note.text
    assert note.provenance.priors_version is None


def test_p3s_own_diagnosis_is_unsupported_even_if_it_is_right() -> None:
    text = "A 61-year-old woman was seen for a lesion on the back. The diagnosis is melanoma."

    (note,) = write(request("P3", on_unfaithful="keep"), engine=Scripted(text), seed=1)

    assert [(claim.field, claim.text) for claim in note.verification.unsupported] == [("diagnosis", "melanoma")]


@pytest.mark.parametrize("strategy", ["P1", "P2", "P3", "G"])
def test_every_strategy_falls_back_to_a_faithful_note(strategy: str) -> None:
    facts = FACTS | {"symptoms": {"itch": "yes", "bleed": "no"}, "findings": {"border": "sharp"}}

    (note,) = write(request(strategy, facts, on_unfaithful="fallback"), engine=Scripted(BAD), seed=3)

    assert note.verification.faithful
    assert (note.verification.coverage, note.provenance.source) == (1, "template")


def test_g_is_written_within_its_grammar_and_reports_its_priors() -> None:
    (note,) = write(request("G"), engine=Scripted(), seed=5)

    assert note.verification.faithful
    assert (note.provenance.attempts, note.provenance.source) == (1, "llm")
    assert note.provenance.priors_version == load_priors().version
    assert {fact.field for fact in note.facts} == set(FACTS)


def test_a_text_with_few_decisions_of_the_model_counts_as_template() -> None:
    class Decided(Scripted):
        def __init__(self, decisions: int) -> None:
            super().__init__(GOOD)
            self.decisions = decisions

        def complete(self, request: CompletionRequest) -> CompletionResponse:
            answer = super().complete(request)
            return answer.model_copy(update={"usage": answer.usage.model_copy(update={"decisions": self.decisions})})

    (few,) = write(request(), engine=Decided(MIN_DECISIONS - 1), seed=1)
    (enough,) = write(request(), engine=Decided(MIN_DECISIONS), seed=1)

    assert (few.provenance.source, enough.provenance.source) == ("template", "llm")
    assert few.provenance.tokens.decisions == MIN_DECISIONS - 1


def test_the_same_seed_gives_the_same_request_and_another_seed_another_one() -> None:
    engine = Scripted()
    for seed in (1, 1, 2):
        write(request("G"), engine=engine, seed=seed)

    first, again, other = engine.script.requests
    assert first == again
    assert first.grammar != other.grammar
    assert first.seed != other.seed


@pytest.mark.parametrize(
    ("text", "finished", "expected"),
    [
        (" One.  Two\n three.", True, "One. Two three."),
        ("One. Two thr", False, "One."),
        ("no end", False, ""),
        ("One. Two.", False, "One. Two."),
    ],
)
def test_a_sentence_cut_by_the_token_limit_is_dropped(text: str, finished: bool, expected: str) -> None:
    assert tidy(text, finished=finished) == expected


def test_queued_jobs_name_the_task() -> None:
    assert TASK == "dermnote_notegen.worker.write_note"  # jobs of earlier versions carry this name
    assert import_attribute(TASK) is write_note


def test_importing_the_worker_builds_no_runtime() -> None:
    code = "import dermnote_notegen.worker.writer as t; assert t.process_runtime.cache_info().currsize == 0"

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
