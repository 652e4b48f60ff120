"""The catalogue (strategies, clinical priors, the model) and the health of the service."""

from fastapi import APIRouter, Response

from dermnote_contracts.notes import Health, ModelInfo, PriorsInfo, Strategy, StrategyInfo
from dermnote_contracts.problems import EngineUnavailable, UnknownPrior
from dermnote_contracts.vocabulary import UnknownTerm, vocabularies
from dermnote_notegen.api.jobs import JobsDep, PriorsDep
from dermnote_notegen.writing.priors import Prior
from dermnote_notegen.writing.strategies import CARRIED, TOPIC_OF, prompt_file

router = APIRouter(tags=["catalogue"])
health = APIRouter(tags=["health"], prefix="/health")
TITLES: dict[Strategy, str] = {
    "M": "Fixed template over superclass, class and subclass; no model",
    "P1": "Superclass, class and subclass; the model describes what is typical in a given list of terms",
    "P2": "Class, demographics and site; the model describes freely",
    "P3": "No diagnosis; a free report in which the model chooses one",
    "G": "Facts as a skeleton, typical findings from clinical priors; the model chooses within a grammar",
}


@router.get("/strategies")
def get_strategies() -> list[StrategyInfo]:
    """The available strategies, and the topics that each must state."""
    return [
        StrategyInfo(
            id=strategy,
            title=TITLES[strategy],
            uses_llm=bool(prompt_file(strategy).instruction),
            prompt_version=prompt_file(strategy).version,
            states=list(dict.fromkeys(TOPIC_OF[name] for name in carried)),
        )
        for strategy, carried in CARRIED.items()
    ]


@router.get("/priors")
def get_priors(priors: PriorsDep) -> PriorsInfo:
    """The diagnoses that have clinical priors, and the version of all of them together."""
    return PriorsInfo(version=priors.version, diagnoses=list(priors))


@router.get("/priors/{diagnosis}")
def get_prior(diagnosis: str, priors: PriorsDep) -> Prior:
    """The clinical prior of one diagnosis, given in any accepted spelling."""
    try:
        return priors[vocabularies()["diagnosis"].normalise(diagnosis)]
    except (UnknownTerm, KeyError) as error:
        raise UnknownPrior("see /priors for the diagnoses that have one") from error


@router.get("/model")
def get_model(jobs: JobsDep) -> ModelInfo:
    """The language model that the workers use."""
    model = jobs.model()
    if model is None:
        raise EngineUnavailable("no worker has reported a loaded model recently", retry_after_s=5)
    return model


@health.get("/live")
def live() -> Health:
    """Always ok while the process answers."""
    return Health(status="ok")


@health.get("/ready", responses={503: {"model": Health}})
def ready(response: Response, jobs: JobsDep) -> Health:
    """503 until notes can be written; the checks say what is missing."""
    checks = jobs.checks()
    ok = all(result == "ok" for result in checks.values())
    response.status_code = 200 if ok else 503
    return Health(status="ok" if ok else "unavailable", checks=checks)
