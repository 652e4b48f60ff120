"""A model without weights for tests and dry runs (NOTEGEN_MODEL=scripted): it reads the facts back as a sentence."""

import time
import uuid
from collections.abc import Callable

from dermnote_contracts.completions import CompletionChoice, CompletionRequest, CompletionResponse, CompletionUsage


class ScriptedModel:
    """Answers with `texts` in turn; without any, with a plain sentence made of the prompt's last facts line.

    `token_s`: seconds that each word takes, so that a test can end a process in the middle of a note.
    """

    name = "scripted"
    sha256: str | None = None
    context_tokens = 100_000
    engine = "scripted"

    def __init__(self, texts: list[str] | None = None, *, token_s: float = 0.0) -> None:
        self._texts = list(texts or [])
        self._token_s = token_s
        self.asked: list[CompletionRequest] = []

    def complete(self, request: CompletionRequest, *, stop: Callable[[], bool]) -> CompletionResponse:
        """The next text, word by word; stops early when told to."""
        text = self._texts[len(self.asked) % len(self._texts)] if self._texts else _read_back(request.prompt)
        self.asked.append(request)
        words = []
        for word in text.split(" "):
            if stop():
                break
            time.sleep(self._token_s)
            words.append(word)
        return CompletionResponse(
            id=f"cmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.name,
            choices=[CompletionChoice(text=" " + " ".join(words), finish_reason="stop")],
            usage=CompletionUsage(prompt_tokens=len(request.prompt.split()), completion_tokens=len(words)),
        )


def _read_back(prompt: str) -> str:
    """The last facts line as a sentence: "61-year-old man; site back; diagnosis nevus" said in running words."""
    parts = prompt.rpartition("Facts: ")[2].partition(".\n")[0].split("; ")
    words = [part.replace("site ", "on the ", 1).replace("diagnosis ", "with ", 1) for part in parts]
    return f"Seen: {', '.join(words)}."
