"""The selection of a peer's best settings: the trials, and the candidates that are kept."""

from collections.abc import Callable, Mapping

from lab.throughput.arms import Run
from lab.throughput.selection import Candidate, Selection, choose_free, choose_guided, choose_plain

Rates = Mapping[Candidate, tuple[float, float]]


def peer(rates: Rates) -> Callable[[Candidate], Run]:
    """A peer with these (notes, faithful notes) per second; one note, not faithful, for other candidates."""

    def attempt(candidate: Candidate) -> Run:
        notes, faithful = rates.get(candidate, (1, 0))
        return Run(str(candidate), 100, 100 / notes, 1000, 2000, round(faithful * 100 / notes), 0, 300)

    return attempt


def chosen(rates: Rates, *, layouts: tuple[str, ...] = ("Q8_0", "IQ4_NL", "Q4_0")) -> Selection:
    return choose_free(peer(rates), layouts=layouts, slots=[2, 4, 8])


def test_slots_are_tried_with_the_best_layouts_only() -> None:
    selection = chosen(
        {Candidate("Q4_0", 4): (2, 0.2), Candidate("IQ4_NL", 4): (1.5, 0.5), Candidate("Q8_0", 4): (1.4, 0.4)}
    )

    assert list(selection.tried) == [
        *(Candidate(layout, 4) for layout in ("Q8_0", "IQ4_NL", "Q4_0")),
        *(Candidate("Q4_0", slots) for slots in (2, 8)),
        *(Candidate("IQ4_NL", slots) for slots in (2, 8)),
    ]


def test_the_best_layout_by_each_measure_is_kept_with_its_best_slots() -> None:
    selection = chosen(
        {Candidate("Q4_0", 4): (2, 0.2), Candidate("Q4_0", 8): (2.5, 0.25), Candidate("IQ4_NL", 4): (1, 0.5)}
    )

    assert selection.best == {"notes/s": Candidate("Q4_0", 8), "faithful notes/s": Candidate("IQ4_NL", 4)}
    assert selection.kept == [Candidate("Q4_0", 8), Candidate("IQ4_NL", 4)]


def test_a_layout_that_wins_by_both_measures_is_kept_with_the_next_most_faithful_one() -> None:
    selection = chosen(
        {
            Candidate("Q4_0", 4): (2, 0.8),
            Candidate("Q8_0", 4): (1, 0.5),
            Candidate("IQ4_NL", 4): (1.5, 0.2),
        }
    )

    assert selection.kept == [Candidate("Q4_0", 4), Candidate("Q8_0", 4)]


def test_one_layout_with_two_slot_counts_is_kept_with_another_layout() -> None:
    selection = chosen(
        {
            Candidate("Q4_0", 4): (2, 0.8),
            Candidate("Q4_0", 8): (2.5, 0.5),
            Candidate("Q8_0", 4): (1, 0.3),
        }
    )

    assert selection.kept == [Candidate("Q4_0", 8), Candidate("Q4_0", 4), Candidate("Q8_0", 4)]


def test_a_peer_without_faithful_notes_is_chosen_by_notes_per_second() -> None:
    selection = chosen({Candidate("IQ4_NL", 8): (3, 0), Candidate("IQ4_NL", 4): (2, 0)})

    assert set(selection.best.values()) == {Candidate("IQ4_NL", 8)}


def test_a_single_layout_is_kept_alone() -> None:
    assert chosen({}, layouts=("Q4_0",)).kept == [Candidate("Q4_0", 4)]


def test_failed_requests_are_not_counted_as_notes() -> None:
    def attempt(candidate: Candidate) -> Run:
        fails = 90 if candidate.layout == "Q4_0" else 0
        return Run("", 100, 50 if fails else 100, 1000, 2000, 0, fails, 300)

    selection = choose_free(attempt, layouts=["Q4_0", "Q8_0"], slots=[4])

    assert selection.best["notes/s"] == Candidate("Q8_0", 4)


def test_under_a_grammar_the_better_of_four_and_eight_slots_is_chosen() -> None:
    selection = choose_guided(peer({Candidate("Q4_0", 8): (0.9, 0.9), Candidate("Q4_0", 4): (0.8, 0.8)}), layout="Q4_0")

    assert list(selection.tried) == [Candidate("Q4_0", 4), Candidate("Q4_0", 8)]
    assert selection.kept == [Candidate("Q4_0", 8)]


def test_plain_llama_uses_the_layout_that_samples_fastest() -> None:
    rates = {"source": (0.7, 0.4), "Q8_0": (0.9, 0.1)}

    selection = choose_plain(peer({Candidate(name): rate for name, rate in rates.items()}), layouts=list(rates))

    assert selection.kept == [Candidate("Q8_0")]


def test_the_record_contains_every_trial_and_the_choice() -> None:
    selection = chosen({Candidate("Q4_0", 4): (2, 0.5)}).record()

    (first,) = (one for one in selection["tried"] if (one["layout"], one["slots"]) == ("Q4_0", 4))
    assert (first["notes"], first["notes/s"], first["faithful notes/s"], first["sampled tokens/s"]) == (100, 2, 0.5, 20)
    assert selection["best"]["faithful notes/s"] == {"layout": "Q4_0", "slots": 4}
    assert {"layout": "Q4_0", "slots": 4} in selection["kept"]
