"""The benchmark's requests: random records with independent facts, all distinct within a batch.

Half of the records resemble HAM10000 (no symptoms), half PAD-UFES-20 (with symptoms).
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dermnote_contracts.completions import CompletionRequest
from dermnote_contracts.metadata import Symptoms
from dermnote_contracts.notes import NoteRequest, Strategy
from dermnote_contracts.vocabulary import vocabularies
from dermnote_notegen.worker import writer
from dermnote_notegen.writing.priors import Priors
from dermnote_notegen.writing.prompt import build_prompt
from dermnote_notegen.writing.strategies import note_facts
from lab.peers.client import PeerRequest

Diagnoses = Literal["common", "all"]
Facts = Literal["shared", "all"]
"""`shared`: age, sex, site and diagnosis, which notes of P2 and G both state; `all`: symptoms and findings too."""
# Images per class as published (10.1038/sdata.2018.161, 10.1016/j.dib.2020.106221), under the names of the eight ISIC
# 2019 classes: akiec (HAM10000) and ACK (PAD-UFES-20) are actinic keratosis here, bkl and SEK benign keratosis.
HAM10000 = {
    "nevus": 6705,
    "melanoma": 1113,
    "benign keratosis": 1099,
    "basal cell carcinoma": 514,
    "actinic keratosis": 327,
    "vascular lesion": 142,
    "dermatofibroma": 115,
}
PAD_UFES_20 = {
    "basal cell carcinoma": 845,
    "actinic keratosis": 730,
    "nevus": 244,
    "benign keratosis": 235,
    "squamous cell carcinoma": 192,
    "melanoma": 52,
}
# Sites of both data sets, equally likely, so that fewer prompts share a prefix than with the real frequencies.
SITES = (
    *("back", "face", "chest", "abdomen", "foot", "hand", "neck", "scalp", "ear", "nose", "lip", "arm", "forearm"),
    *("thigh", "trunk", "genital area", "acral skin", "lower extremity", "upper extremity"),
)
SHARED = ("age", "sex", "site", "diagnosis")
WITH_FINDINGS = 0.5
SYMPTOM = {"yes": 0.35, "no": 0.55, "unknown": 0.1}
SEEDS_PER_SALT = 10_007
CHOICE = (
    "half of the records as in HAM10000 (its class frequencies, no symptoms), half as in PAD-UFES-20 (its class "
    "frequencies, six symptoms: yes 35 %, no 55 %, unknown 10 %); findings in half of all; age 18 to 90, sex and site "
    "uniform and independent of the diagnosis; with the facts `shared` only age, sex, site and diagnosis of these"
)


@dataclass(frozen=True)
class BenchRequest:
    """A note request, and the completion request that the note service builds from it."""

    request: NoteRequest
    completion: CompletionRequest


@dataclass(frozen=True)
class Mix:
    """Contents of the records of a batch.

    `diagnoses`: "common" for the eight classes by frequency, "all" for all diagnoses with a prior, equally likely.
    """

    diagnoses: Diagnoses = "common"
    facts: Facts = "all"


def make_requests(count: int, *, strategy: Strategy, salt: int, priors: Priors, mix: Mix = Mix()) -> list[BenchRequest]:
    """`count` requests with distinct facts; a larger count only adds requests, another salt gives different ones.

    Raises ValueError if `count` exceeds the number of seeds per salt.
    """
    if count > SEEDS_PER_SALT:
        raise ValueError(f"at most {SEEDS_PER_SALT} requests per salt")
    names = sorted(priors) if mix.diagnoses == "all" else None
    seen: set[str] = set()
    return [
        _make_request(number, strategy=strategy, priors=priors, names=names, facts=mix.facts, seen=seen)
        for number in range(salt * SEEDS_PER_SALT, salt * SEEDS_PER_SALT + count)
    ]


def _make_request(
    number: int, *, strategy: Strategy, priors: Priors, names: Sequence[str] | None, facts: Facts, seen: set[str]
) -> BenchRequest:
    requests = (
        NoteRequest.model_validate({"metadata": _of(record, facts), "strategy": strategy, "options": {"seed": number}})
        for record in records(random.Random(number), names=names)
    )
    # P2 states no symptoms or findings, so the other facts must differ.
    request = next(one for one in requests if _shared_facts(one) not in seen)
    seen.add(_shared_facts(request))
    stated = note_facts(request)
    prior = priors.get(stated.diagnosis or "")
    prompt = build_prompt(strategy, facts=stated, prior=prior, options=request.options, seed=number)
    return BenchRequest(request, writer.completion_request(prompt, seed=number))


def _of(record: dict[str, Any], facts: Facts) -> dict[str, Any]:
    return record if facts == "all" else {name: record[name] for name in SHARED}


def _shared_facts(request: NoteRequest) -> str:
    return request.metadata.model_dump_json(include=set(SHARED))


def records(draw: random.Random, *, names: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """An endless stream of metadata with independent facts. `names`: diagnoses, equally likely."""
    while True:
        with_symptoms = draw.random() < 0.5
        classes = PAD_UFES_20 if with_symptoms else HAM10000
        record: dict[str, Any] = {
            "age": draw.randint(18, 90),
            "sex": draw.choice(("female", "male")),
            "site": draw.choice(SITES),
            "diagnosis": draw.choice(names) if names else _weighted(draw, classes),
        }
        if with_symptoms:
            record["symptoms"] = {name: _weighted(draw, SYMPTOM) for name in Symptoms.model_fields}
        if draw.random() < WITH_FINDINGS:
            record["findings"] = _findings(draw)
        yield record


def _findings(draw: random.Random) -> dict[str, Any]:
    terms = {name: vocabularies()[name].terms for name in ("asymmetry", "border", "colours", "structures")}
    return {
        "asymmetry": draw.choice(terms["asymmetry"]),
        "border": draw.choice(terms["border"]),
        "colours": draw.sample(terms["colours"], draw.randint(1, 3)),
        "structures": draw.sample(terms["structures"], draw.randint(0, 2)),
    }


def _weighted(draw: random.Random, weights: Mapping[str, float]) -> str:
    return draw.choices(list(weights), weights=list(weights.values()))[0]


def peer_request(completion: CompletionRequest) -> PeerRequest:
    """The same completion for a peer: one segment, with the grammar of the complete text."""
    return PeerRequest(
        prompt=completion.prompt,
        max_tokens=completion.max_tokens,
        temperature=completion.temperature,
        seed=completion.seed,
        top_p=completion.top_p,
        top_k=completion.top_k,
        min_p=completion.min_p,
        stop=tuple(completion.stop),
        grammar=completion.grammar,
    )
