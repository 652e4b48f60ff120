"""The engine benchmark's own arithmetic: distinct requests, medians, and ratios that leave out what has no peer."""

import pytest

pytest.importorskip("matplotlib")

from benchmarks.engine import Run, asked, peer_request, ratios, summary, table
from dermnote_notegen.priors import load_priors

PRIORS = load_priors()


def run(arm: str, *, seconds: float, faithful: int, sampled: int = 100) -> Run:
    return Run(arm, notes=10, seconds=seconds, sampled=sampled, processed=200, faithful=faithful, failed=1, peak_mib=50)


def test_requests_are_distinct_within_a_round_and_between_rounds() -> None:
    told = [
        ask.request.metadata.model_dump_json()
        for turn in (1, 2)
        for ask in asked(96, strategy="G", salt=turn, priors=PRIORS)
    ]

    assert len(set(told[:96])) == 96
    assert (
        len({ask.completion.seed for turn in (1, 2) for ask in asked(96, strategy="P2", salt=turn, priors=PRIORS)})
        == 192
    )


def test_a_peer_is_asked_for_the_same_text_with_the_same_sampling() -> None:
    (guided,), (free,) = (asked(1, strategy=strategy, salt=1, priors=PRIORS) for strategy in ("G", "P2"))  # type: ignore[arg-type]

    assert peer_request(guided.completion).grammar == guided.completion.grammar
    assert (peer_request(guided.completion).top_p, peer_request(guided.completion).top_k) == (1.0, 0)
    assert (peer_request(free.completion).prompt, peer_request(free.completion).top_k) == (free.completion.prompt, 40)


def test_rates_are_medians_over_rounds_with_their_spread_and_failures_count_as_no_note() -> None:
    (row,) = summary([run("ours G", seconds=s, faithful=8) for s in (1.0, 2.0, 4.0)])

    assert (row["notes_per_s"], row["faithful_per_s"], row["faithful_range"]) == (4.5, 4.0, [2.0, 8.0])
    assert (row["sampled_per_s"], row["processed_per_s"], row["failed"]) == (50, 100, 3)
    assert "ours G" in table([row])


def test_ratios_take_the_best_of_each_side_and_no_peer_no_ratio() -> None:
    rows = summary(
        [
            run("ours G 8 slots", seconds=1, faithful=8),
            run("ours G 16 slots", seconds=0.5, faithful=8),
            run("server P2 Q4_0 4 slots", seconds=2, faithful=2),
            run("server P2 Q8_0 4 slots", seconds=2, faithful=4),
            run("plain Llama P2", seconds=1, faithful=0),
        ]
    )

    found = ratios(rows)

    assert found["G: faithful notes/s over the server's P2"] == 8
    assert found["G: notes/s over the server's P2 notes/s, faithful or not"] == 4
    assert "G: faithful notes/s over plain Llama's P2" not in found
    assert "G: faithful notes/s over the server's G" not in found
