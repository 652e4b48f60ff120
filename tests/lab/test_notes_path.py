"""The benchmark of the whole path: its arithmetic."""

from lab.notes_path import report


def test_rates_are_medians_over_rounds_and_the_ratio_is_theirs() -> None:
    found = report({"whole path": [50, 40, 100], "bare engine": [40, 30, 50]}, 1188, notes=400)

    assert found["notes_per_s"] == {"whole path": 8, "bare engine": 10}
    assert (found["ratio"], found["faithful_share"]) == (0.8, 0.99)
