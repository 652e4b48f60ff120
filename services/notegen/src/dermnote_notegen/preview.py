"""What a request would do, without doing it; and what strategies there are. Pure."""

from typing import Any

from pydantic import BaseModel

from dermnote_contracts.notes import NoteRequest, Strategy, StrategyInfo, Topic
from dermnote_notegen import prompts
from dermnote_notegen.strategies import CARRIED, TOPIC_OF, facts_to_state

TITLES: dict[Strategy, str] = {
    "M": "Fixed template over superclass, class and subclass; no model",
    "P2": "Class, demographics and site; the model describes freely",
}


class Preview(BaseModel):
    """`prompt`: the text before the model's own words, null without a model; `facts`: what the note must state."""

    strategy: Strategy
    prompt: str | None
    prompt_version: str
    grammar: str | None
    facts: dict[str, Any]
    blinded: bool


def preview(request: NoteRequest) -> Preview:
    """The prompt and the required facts of a request; raises what submitting it would raise."""
    facts = facts_to_state(request)
    uses_llm = bool(prompts.prompt_file(request.strategy).instruction)
    prompt = prompts.render(request.strategy, facts=facts, options=request.options) if uses_llm else None
    return Preview(
        strategy=request.strategy,
        prompt=None if prompt is None else prompt.text,
        prompt_version=prompts.prompt_file(request.strategy).version,
        grammar=None,
        facts=facts,
        blinded="diagnosis" not in facts,
    )


def offered_strategies() -> list[StrategyInfo]:
    """Every strategy on offer."""
    return [
        StrategyInfo(
            id=strategy,
            title=TITLES[strategy],
            uses_llm=bool(prompts.prompt_file(strategy).instruction),
            prompt_version=prompts.prompt_file(strategy).version,
            states=_topics(carried),
        )
        for strategy, carried in CARRIED.items()
    ]


def _topics(carried: tuple[str, ...]) -> list[Topic]:
    return list(dict.fromkeys(TOPIC_OF[name] for name in carried))
