"""What can be asked for: strategies and the model, with versions."""

from fastapi import APIRouter

from dermnote_contracts.notes import ModelInfo, StrategyInfo
from dermnote_contracts.problems import EngineUnavailable
from dermnote_notegen import preview
from dermnote_notegen.api.dependencies import JobsHere

router = APIRouter(tags=["catalogue"])


@router.get("/strategies")
def get_strategies() -> list[StrategyInfo]:
    """The strategies on offer, and the facts that each must state."""
    return preview.offered_strategies()


@router.get("/model")
def get_model(jobs: JobsHere) -> ModelInfo:
    """The language model that the workers use."""
    model = jobs.model()
    if model is None:
        raise EngineUnavailable("no worker has reported a loaded model lately", retry_after_s=5)
    return model
