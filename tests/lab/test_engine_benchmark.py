"""The engine benchmark: the requests of every arm, medians, and ratios between arms with identical requests."""

from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from dermnote_notegen.verify import Verifier
from dermnote_notegen.writing.grammar import write_skeleton
from dermnote_notegen.writing.priors import load_priors
from dermnote_notegen.writing.strategies import note_facts
from lab.engine import choose, our_arms, peer_arms, read_arguments, request_record
from lab.throughput.arms import Run, Text, verified_run
from lab.throughput.report import ratios, summary, table
from lab.throughput.requests import make_requests
from lab.throughput.selection import Candidate

PRIORS = load_priors()


def run(arm: str, *, seconds: float, faithful: int, sampled: int = 100, notes: int = 10, failed: int = 1) -> Run:
    return Run(arm, notes, seconds, sampled, processed=200, faithful=faithful, failed=failed, peak_mib=50)


class FakeBench:
    """Records all runs; Q4_0 is fastest, Q8_0 the most faithful, 8 slots better than 4."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int, int]] = []

    def ours(self, arm: str, strategy: str, *, slots: int, salt: int, notes: int, facts: str | None = None) -> Run:
        assert facts == ("all" if arm.startswith("all facts") else None)
        return self._run(arm, strategy, salt, notes, Candidate("BF16", slots))

    def server(self, arm: str, strategy: str, candidate: Candidate, *, salt: int, notes: int) -> Run:
        return self._run(arm, strategy, salt, notes, candidate)

    def plain(self, arm: str, candidate: Candidate, *, salt: int, notes: int) -> Run:
        return self._run(arm, "P2", salt, notes, candidate)

    def _run(self, arm: str, strategy: str, salt: int, notes: int, candidate: Candidate) -> Run:
        self.calls.append((arm, strategy, salt, notes))
        rate = {"Q4_0": 2.0, "Q8_0": 1.0}.get(candidate.layout, 0.5) * (1 + candidate.slots / 100)
        faithful = notes // 2 if candidate.layout == "Q8_0" else notes // 8
        return run(arm, seconds=notes / rate, faithful=faithful, sampled=round(10 * rate), notes=notes, failed=0)


def measured(*given: str) -> tuple[FakeBench, list[Run], Sequence[tuple[str, str, int, int]]]:
    """(bench, one round of all arms, its recorded calls)."""
    arguments, bench = read_arguments(given), FakeBench()
    fake: Any = bench
    chosen = choose(fake, arguments)
    before = len(bench.calls)
    arms = our_arms(fake, arguments) | peer_arms(fake, arguments, chosen)
    runs = [arm(1) for arm in arms.values()]
    assert [run.arm for run in runs] == list(arms)
    return bench, runs, bench.calls[before:]


def test_both_arms_of_a_ratio_have_the_same_requests() -> None:
    _, _, round_one = measured("--notes", "32", "--few", "16")

    def notes(begins: str) -> set[int]:
        return {notes for arm, _, salt, notes in round_one if arm.startswith(begins) and salt == 1}

    assert notes("server P2") == {32}
    assert notes("server G") == notes("plain Llama P2") == {16}
    assert notes("ours G") == notes("ours P2") == {32, 16}


def test_every_ratio_is_computed_from_equal_numbers_of_requests() -> None:
    _, runs, _ = measured("--notes", "32", "--few", "16")

    rows = summary(runs)

    assert len(ratios(rows)) == 7
    assert {row["requests"] for row in rows} == {32, 16}


def test_our_arms_cover_the_default_slots_and_strategies() -> None:
    _, _, round_one = measured()

    ours = {arm: strategy for arm, strategy, _, _ in round_one if "ours" in arm}
    assert ours == {
        **{f"ours G {slots} slots": "G" for slots in (1, 4, 8, 16, 24, 32)},
        **{f"ours P2 {slots} slots": "P2" for slots in (16, 24)},
        "ours G 24 slots, few": "G",
        "ours P2 24 slots, few": "P2",
        "all facts: ours G 24 slots": "G",
    }


def test_a_peer_is_selected_by_both_measures_on_requests_outside_the_rounds() -> None:
    bench, _, round_one = measured("--server-slots", "4", "8")

    peers = [(arm, strategy) for arm, strategy, _, _ in round_one if "ours" not in arm]
    assert peers == [
        ("server P2 Q4_0 8 slots", "P2"),
        ("server P2 Q8_0 8 slots", "P2"),
        ("server G Q4_0 8 slots", "G"),
        ("plain Llama P2 Q4_0", "P2"),
    ]
    selection = bench.calls[: -len(round_one)]
    assert {salt for _, _, salt, _ in selection} == {0}
    assert {f"server P2 {layout} 4 slots" for layout in ("source", "Q8_0", "BF16", "IQ4_NL", "Q4_0")} <= {
        arm for arm, *_ in selection
    }
    assert {notes for arm, _, _, notes in selection if arm.startswith("server P2")} == {16}


def test_a_deselected_side_is_not_measured() -> None:
    bench = FakeBench()
    fake: Any = bench

    assert choose(fake, read_arguments(["--sides", "ours"])) == {}
    assert list(choose(fake, read_arguments(["--sides", "ours", "plain"]))) == ["plain Llama P2"]
    assert all(arm.startswith("plain") for arm, *_ in bench.calls)


def test_the_record_describes_the_requests() -> None:
    common, wide = (
        request_record(read_arguments(["--notes", "32", "--diagnoses", kind])) for kind in ("common", "all")
    )

    assert (common["notes"], common["few"], common["diagnoses"]) == (32, 16, "common")
    assert "HAM10000" in common["drawn"]
    assert "all diagnoses with a prior" in wide["drawn"]


def test_a_text_counts_as_faithful_if_it_passes_the_verifier() -> None:
    batch = make_requests(3, strategy="G", salt=1, priors=PRIORS)
    good = write_skeleton(note_facts(batch[0].request).stated, seed=1)
    texts = [Text(good, finished=True, sampled=5), Text("It is benign.", finished=True, sampled=3), None]

    found = verified_run("arm", batch, texts, seconds=2, processed=40, peak=2**20, verifier=Verifier(PRIORS))

    assert found == Run("arm", 3, 2, sampled=8, processed=40, faithful=1, failed=1, peak_mib=1)
    assert (found.notes_per_s, found.faithful_per_s, found.sampled_per_s) == (1, 0.5, 4)


def test_rates_are_medians_over_rounds_with_their_range_and_exclude_failures() -> None:
    (row,) = summary([run("ours G", seconds=s, faithful=8) for s in (1.0, 2.0, 4.0)])

    assert (row["notes_per_s"], row["faithful_per_s"], row["faithful_range"]) == (4.5, 4.0, [2.0, 8.0])
    assert (row["sampled_per_s"], row["processed_per_s"], row["failed"]) == (50, 100, 3)
    assert row["requests"] == 10


def test_the_table_shows_the_requests_per_round() -> None:
    head, line = table(summary([run("ours G 8 slots", seconds=2, faithful=8, notes=36)])).splitlines()

    assert head.split()[:2] == ["arm", "requests"]
    assert line.removeprefix("ours G 8 slots").split()[0] == "36"


def test_rounds_with_different_numbers_of_requests_are_rejected() -> None:
    with pytest.raises(ValueError, match="too many values"):
        summary([run("ours G", seconds=1, faithful=1, notes=count) for count in (10, 20)])


def test_ratios_compare_the_best_arms_and_omit_missing_peers() -> None:
    rows = summary(
        [
            run("ours G 8 slots", seconds=1, faithful=8),
            run("ours G 16 slots", seconds=0.5, faithful=8),
            run("server P2 Q4_0 4 slots", seconds=2, faithful=2),
            run("server P2 Q8_0 4 slots", seconds=2, faithful=4),
            run("plain Llama P2 Q8_0", seconds=1, faithful=0),
        ]
    )

    found = ratios(rows)

    assert found["G: faithful notes/s over the server's P2"] == 8
    assert found["G: notes/s over the server's P2 notes/s, faithful or not"] == 4
    assert "G: faithful notes/s over plain Llama's P2" not in found
    assert "G: faithful notes/s over the server's G" not in found


def test_arms_with_other_numbers_of_requests_are_not_compared() -> None:
    rows = summary(
        [
            run("ours G 16 slots", seconds=1, faithful=40, notes=40),
            run("ours G 24 slots, few", seconds=1, faithful=9),
            run("server G Q4_0 4 slots", seconds=3, faithful=9),
            run("plain Llama P2 Q8_0", seconds=1, faithful=1, notes=5),
        ]
    )

    found = ratios(rows)

    assert found == {"G: faithful notes/s over the server's G": pytest.approx(3)}


def test_the_higher_of_a_peers_median_and_pooled_rate_counts() -> None:
    rows = summary(
        [
            run("ours G 8 slots", seconds=1, faithful=8),
            *(run("server P2 Q4_0 4 slots", seconds=1, faithful=count) for count in (0, 0, 6)),
        ]
    )

    assert ratios(rows)["G: faithful notes/s over the server's P2"] == 4
