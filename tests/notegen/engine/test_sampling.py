"""The sampler with fixed logits: the effect of each filter, and the frequencies of the tokens."""

from collections import Counter

import pytest

np = pytest.importorskip("numpy")

from dermnote_notegen.engine.sampling import InvalidLogits, Logits, Sampler, SamplingParams  # noqa: E402

# Probabilities .4, .3, .2, .1 at tokens 5, 2, 7, 0; all others impossible.
LOGITS: Logits = np.full(9, -1000.0, dtype=np.float32)
LOGITS[[5, 2, 7, 0]] = np.log([0.4, 0.3, 0.2, 0.1])


def shares(sampling: SamplingParams, logits: Logits = LOGITS, allowed: list[int] | None = None) -> dict[int, float]:
    """The frequency of each token in 20,000 samples."""
    sampler = Sampler(sampling, seed=1)
    among = None if allowed is None else np.array(allowed)
    drawn = Counter(sampler.sample(logits, among) for _ in range(20_000))
    return {token: count / 20_000 for token, count in drawn.items()}


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (SamplingParams(), {5: 0.4, 2: 0.3, 7: 0.2, 0: 0.1}),
        (SamplingParams(temperature=0), {5: 1.0}),
        (SamplingParams(temperature=0.5), {5: 16 / 30, 2: 9 / 30, 7: 4 / 30, 0: 1 / 30}),
        (SamplingParams(top_k=2), {5: 4 / 7, 2: 3 / 7}),
        (SamplingParams(top_p=0.65), {5: 4 / 7, 2: 3 / 7}),
        (SamplingParams(top_p=0.75), {5: 4 / 9, 2: 3 / 9, 7: 2 / 9}),
        (SamplingParams(min_p=0.6), {5: 4 / 7, 2: 3 / 7}),
        (SamplingParams(top_k=3, top_p=0.7), {5: 4 / 7, 2: 3 / 7}),
        (SamplingParams(top_k=3, top_p=0.8, min_p=0.9), {5: 1.0}),
    ],
)
def test_each_filter_removes_the_expected_tokens(sampling: SamplingParams, expected: dict[int, float]) -> None:
    assert shares(sampling) == pytest.approx(expected, abs=0.015)


def test_allowed_tokens_keep_their_relative_probabilities() -> None:
    assert shares(SamplingParams(), allowed=[0, 2, 8]) == pytest.approx({2: 0.75, 0: 0.25}, abs=0.015)


def test_top_k_finds_the_best_tokens_of_a_flat_vocabulary() -> None:
    logits = np.linspace(0, 1, 50_000, dtype=np.float32)
    np.random.default_rng(0).shuffle(logits)
    best = set(np.argsort(logits)[-40:].tolist())

    assert set(shares(SamplingParams(top_k=40), logits)) == best


def test_top_k_is_complete_for_widely_spread_logits() -> None:
    logits = np.array([0.0, -40.0, -80.0, -120.0], dtype=np.float32)

    assert shares(SamplingParams(temperature=2.0, top_k=3), logits) == {0: 1.0}
    flat = shares(SamplingParams(temperature=200.0, top_k=3), logits)
    assert set(flat) == {0, 1, 2}


def test_a_seed_determines_the_sequence() -> None:
    def drawn(seed: int) -> list[int]:
        sampler = Sampler(SamplingParams(), seed=seed)
        return [sampler.sample(LOGITS) for _ in range(30)]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "sampling", [SamplingParams(), SamplingParams(temperature=0), SamplingParams(min_p=0.1), SamplingParams(top_k=2)]
)
def test_nan_or_infinite_logits_raise_an_error(sampling: SamplingParams, value: float) -> None:
    logits = LOGITS.copy()
    logits[3] = value

    with pytest.raises(InvalidLogits, match="broken"):
        Sampler(sampling, seed=0).sample(logits)
    with pytest.raises(InvalidLogits):
        Sampler(sampling, seed=0).sample(np.full(9, -np.inf, dtype=np.float32))


def test_minus_infinity_for_one_token_is_valid() -> None:
    logits = LOGITS.copy()
    logits[3] = -np.inf

    assert Sampler(SamplingParams(), seed=0).sample(logits) in {5, 2, 7, 0}
