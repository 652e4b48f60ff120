"""The curve of memory over requests, with the scripted model in the engine's place."""

from itertools import islice

import pytest

from dermnote_notegen.engine.model import GrammarRefused
from dermnote_notegen.engine.scripted import ScriptedModel
from lab.engine_memory import Point, counted, curve, requests, summary


@pytest.mark.parametrize("short", [False, True])
def test_every_request_is_asked_once_and_has_a_grammar_of_its_own(short: bool) -> None:
    model = ScriptedModel()
    grammars: set[int] = set()

    points = list(curve(model, counted(islice(requests(short=short), 40), grammars), at_a_time=6, every=10))

    assert [point.answered for point in points] == [0, 10, 20, 30, 40]
    assert len(model.asked) == 40
    assert len(grammars) == 40
    assert all(point.rss_mib > 1 for point in points)


def test_a_request_that_is_refused_is_not_passed_over() -> None:
    refused = (one.model_copy(update={"grammar": "root ::= [a]"}) for one in islice(requests(short=False), 3))

    with pytest.raises(GrammarRefused):
        list(curve(ScriptedModel(), refused, at_a_time=2, every=1))


def test_the_summary_tells_a_leak_from_what_fills_up_once() -> None:
    filled = [Point(100 * n, 300 + min(n, 4) * 10, n) for n in range(11)]
    leaking = [Point(100 * n, 300 + n, n) for n in range(11)]

    assert summary(filled) == {
        "first_mib": 300,
        "last_mib": 340,
        "peak_mib": 340,
        "mib_per_1000_in_the_second_half": pytest.approx(0, abs=1e-6),
    }
    assert summary(leaking)["mib_per_1000_in_the_second_half"] == pytest.approx(10)
