"""What can be asked for: strategies, clinical priors and the model, with versions."""

from fastapi import APIRouter

from dermnote_contracts.notes import ModelInfo, PriorsInfo, StrategyInfo
from dermnote_contracts.problems import EngineUnavailable, UnknownPrior
from dermnote_contracts.vocabulary import UnknownTerm, vocabularies
from dermnote_notegen.api import preview
from dermnote_notegen.api.dependencies import JobsHere, PriorsHere
from dermnote_notegen.writing.priors import Prior

router = APIRouter(tags=["catalogue"])


@router.get("/strategies")
def get_strategies() -> list[StrategyInfo]:
    """The strategies on offer, and the facts that each must state."""
    return preview.offered_strategies()


@router.get("/priors")
def get_priors(priors: PriorsHere) -> PriorsInfo:
    """The diagnoses that have clinical priors, and the version of all of them together."""
    return PriorsInfo(version=priors.version, diagnoses=list(priors))


@router.get("/priors/{diagnosis}")
def get_prior(diagnosis: str, priors: PriorsHere) -> Prior:
    """What is typical of one diagnosis; its name in any accepted spelling."""
    try:
        return priors[vocabularies()["diagnosis"].normalise(diagnosis)]
    except (UnknownTerm, KeyError) as unknown:
        raise UnknownPrior("see /priors for the diagnoses that have one") from unknown


@router.get("/model")
def get_model(jobs: JobsHere) -> ModelInfo:
    """The language model that the workers use."""
    model = jobs.model()
    if model is None:
        raise EngineUnavailable("no worker has reported a loaded model lately", retry_after_s=5)
    return model
