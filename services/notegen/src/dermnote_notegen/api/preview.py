"""What a request would do, without doing it; and what strategies there are. Pure."""

from typing import Any

from pydantic import BaseModel

from dermnote_contracts.notes import NoteRequest, Strategy, StrategyInfo, Topic
from dermnote_notegen.writing.priors import Priors
from dermnote_notegen.writing.prompt import render
from dermnote_notegen.writing.prompts import prompt_file
from dermnote_notegen.writing.strategies import CARRIED, TOPIC_OF, note_facts

TITLES: dict[Strategy, str] = {
    "M": "Fixed template over superclass, class and subclass; no model",
    "P1": "Superclass, class and subclass; the model describes what is typical with closed options",
    "P2": "Class, demographics and site; the model describes freely",
    "P3": "No diagnosis; a free report in which the model chooses one",
    "G": "Facts as a skeleton, typical findings from clinical priors; the model chooses within a grammar",
}


class Preview(BaseModel):
    """`prompt`: the text before the model's own words, null without a model; `facts`: what the note must state.

    `grammar`: the GBNF that the text must follow, null where the model writes freely. Wordings are drawn with
    `options.seed`, 0 without one.
    """

    strategy: Strategy
    prompt: str | None
    prompt_version: str
    grammar: str | None
    facts: dict[str, Any]
    blinded: bool


def preview(request: NoteRequest, *, priors: Priors) -> Preview:
    """The prompt and the required facts of a request; raises what submitting it would raise."""
    facts = note_facts(request)
    source = prompt_file(request.strategy)
    prompt = None
    if source.instruction:
        prior = priors.get(facts.diagnosis or "")
        seed = request.options.seed or 0
        prompt = render(request.strategy, facts=facts, prior=prior, options=request.options, seed=seed)
    return Preview(
        strategy=request.strategy,
        prompt=None if prompt is None else prompt.text,
        prompt_version=source.version,
        grammar=None if prompt is None else prompt.grammar,
        facts=dict(facts.stated),
        blinded=facts.diagnosis is None,
    )


def offered_strategies() -> list[StrategyInfo]:
    """Every strategy on offer."""
    return [
        StrategyInfo(
            id=strategy,
            title=TITLES[strategy],
            uses_llm=bool(prompt_file(strategy).instruction),
            prompt_version=prompt_file(strategy).version,
            states=_topics(carried),
        )
        for strategy, carried in CARRIED.items()
    ]


def _topics(carried: tuple[str, ...]) -> list[Topic]:
    return list(dict.fromkeys(TOPIC_OF[name] for name in carried))
