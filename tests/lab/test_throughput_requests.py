"""The benchmark's requests: distinct, as varied as the data sets' records, and identical for every arm."""

from collections import Counter
from itertools import combinations, islice
from random import Random
from typing import Literal

import pytest

from dermnote_contracts.vocabulary import sites
from dermnote_notegen.writing.priors import load_priors
from lab.throughput.requests import (
    HAM10000,
    PAD_UFES_20,
    SEEDS_PER_SALT,
    SITES,
    BenchRequest,
    Mix,
    make_requests,
    peer_request,
    records,
)

PRIORS = load_priors()


def requests(count: int, *, strategy: Literal["G", "P2"] = "P2", salt: int = 1) -> list[BenchRequest]:
    return make_requests(count, strategy=strategy, salt=salt, priors=PRIORS)


def stated_facts(batch: list[BenchRequest]) -> list[str]:
    return [one.request.metadata.model_dump_json() for one in batch]


def test_all_free_prompts_of_a_batch_differ() -> None:
    assert len({one.completion.prompt for one in requests(1000)}) == 1000


def test_duplicate_facts_are_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.throughput.requests.SITES", ("back",))

    batch = requests(600)  # of 73 ages, 2 sexes, 1 site and mostly 6 diagnoses

    assert len({one.completion.prompt for one in batch}) == 600
    assert {one.request.metadata.site for one in batch} == {"back"}


def test_requests_differ_between_rounds_and_are_reproducible() -> None:
    one, other = requests(48, salt=1), requests(48, salt=2)

    assert not set(stated_facts(one)) & set(stated_facts(other))
    assert not {request.completion.seed for request in one} & {request.completion.seed for request in other}
    assert requests(48, salt=1) == one


def test_a_smaller_batch_is_a_prefix_and_strategies_share_the_facts() -> None:
    assert requests(12) == requests(48)[:12]
    assert stated_facts(requests(12, strategy="G")) == stated_facts(requests(12, strategy="P2"))


def test_facts_are_drawn_independently() -> None:
    """A regression: sex, site and diagnosis once followed from the number: 30 of 120 combinations."""
    drawn = [one.request.metadata for one in requests(2000)]

    for first, second in combinations(("sex", "site", "diagnosis"), 2):
        pairs = {(getattr(one, first), getattr(one, second)) for one in drawn}
        each = [len({getattr(one, name) for one in drawn}) for name in (first, second)]
        assert len(pairs) > 0.8 * each[0] * each[1], (first, second)


def test_records_follow_the_frequencies_of_both_data_sets() -> None:
    drawn = list(islice(records(Random(0)), 4000))
    with_symptoms = [one for one in drawn if "symptoms" in one]
    without = [one for one in drawn if "symptoms" not in one]
    answers = Counter(answer for one in with_symptoms for answer in one["symptoms"].values())

    assert 0.47 < len(with_symptoms) / 4000 < 0.53
    assert 0.47 < sum("findings" in one for one in drawn) / 4000 < 0.53
    assert {one["diagnosis"] for one in with_symptoms} == set(PAD_UFES_20)
    assert {one["diagnosis"] for one in without} == set(HAM10000)
    assert 0.64 < sum(one["diagnosis"] == "nevus" for one in without) / len(without) < 0.70  # 6705 of 10,015
    assert 0.32 < answers["yes"] / answers.total() < 0.38
    assert 0.08 < answers["unknown"] / answers.total() < 0.12


def test_an_unknown_answer_is_not_a_fact() -> None:
    symptoms = [one.request.metadata.symptoms.given() for one in requests(100)]

    assert {answer for given in symptoms for answer in given.values()} == {"yes", "no"}


def test_all_diagnoses_with_a_prior_can_be_drawn() -> None:
    names = sorted(PRIORS)

    drawn = Counter(one["diagnosis"] for one in islice(records(Random(0), names=names), 7000))

    assert set(drawn) == set(PRIORS)
    assert max(drawn.values()) < 2 * 7000 / len(PRIORS)
    wide = make_requests(200, strategy="P2", salt=1, priors=PRIORS, mix=Mix(diagnoses="all"))
    assert len({one.request.metadata.diagnosis for one in wide}) > 50


def test_classes_and_sites_are_known_terms() -> None:
    assert set(HAM10000) | set(PAD_UFES_20) <= set(PRIORS)
    assert len(set(HAM10000) | set(PAD_UFES_20)) == 8
    assert set(SITES) <= set(sites())


def test_shared_facts_are_those_that_both_strategies_state() -> None:
    (shared, whole) = (
        make_requests(50, strategy="G", salt=1, priors=PRIORS, mix=Mix(facts=f)) for f in ("shared", "all")
    )  # type: ignore[arg-type]

    stated = [set(one.request.metadata.model_dump(exclude_none=True, exclude_defaults=True)) for one in shared]
    assert all(names == {"age", "sex", "site", "diagnosis"} for names in stated)
    assert any(one.request.metadata.symptoms for one in whole)
    for one, other in zip(shared, whole, strict=True):
        assert one.request.metadata.model_dump(include={"age", "sex", "site"}) == other.request.metadata.model_dump(
            include={"age", "sex", "site"}
        )


def test_too_many_requests_per_salt_are_rejected() -> None:
    with pytest.raises(ValueError, match="at most 10007"):
        requests(SEEDS_PER_SALT + 1)


def test_a_peer_gets_the_same_prompt_and_sampling() -> None:
    (guided,), (free,) = requests(1, strategy="G"), requests(1, strategy="P2")

    assert peer_request(guided.completion).grammar == guided.completion.grammar
    assert (peer_request(guided.completion).top_p, peer_request(guided.completion).top_k) == (1.0, 0)
    assert (peer_request(free.completion).prompt, peer_request(free.completion).top_k) == (free.completion.prompt, 40)
