"""A server whose context does not hold a chat says so by its counts of tokens."""

from __future__ import annotations

import re

from common.client.costs import prompt_chars
from common.files import ItemFailed

# A prompt was cut that counts fewer tokens than one for so many characters, and fewer than these
# for each word (of 12 letters at most, in scripts without blanks too). English prose has 1.2 to 1.4
# tokens a word, code and other languages two and more; blanks and rules of marks may have none.
_CHARS_OF_A_TOKEN = 4.5
_TOKENS_OF_A_WORD = 0.9
_WORD = re.compile(r"[^\s!-/:-@\[-^`{-~]{1,12}")
_OTHER_LENGTH = 2  # times as long as another chat of the same count, the largest that was told
_SHORT = 1000  # tokens: no context is so small that it cuts fewer
_FULL_SHARE = 0.95  # of max_tokens: servers count the end of a reply or not, some a few tokens less
_ADVICE = "Give the server a larger one (Ollama: OLLAMA_CONTEXT_LENGTH; llama.cpp: n_ctx)."


class Contexts:
    """What is known of the contexts of a run's models."""

    def __init__(self):
        # By model: the most prompt tokens told, and less the fewest characters of such a chat.
        self._largest: dict[str, tuple[int, int]] = {}

    def lack(self, model: str, messages: list, completion, was_cut: int) -> ItemFailed | None:
        """Return the failure where the context did not hold a chat; another ask would meet it, too.

        By the usage of a reply the prompt was cut, or the reply before its max_tokens: `was_cut`,
        0 for a reply that came to its own end.
        """
        told = completion.usage.get("prompt_tokens")
        if told:
            came = completion.usage["completion_tokens"] + completion.usage["reasoning_tokens"]
            chars = prompt_chars(messages)
            largest, fewer = max((told, -chars), self._largest.get(model, (0, 0)))
            self._largest[model] = (largest, fewer)
            is_same = told == largest and chars > _OTHER_LENGTH * -fewer
            least = 0
            if told < chars / _CHARS_OF_A_TOKEN:
                words = sum(len(_WORD.findall(message["content"])) for message in messages)
                least = int(_TOKENS_OF_A_WORD * words)
            if max(told, least) >= _SHORT and (told < least or is_same):
                kind = "the server cut the prompt (its context; Ollama: num_ctx)"
                why = f"which make {least:,} or more" if told < least else "as of half as many"
                detail = f"it counts {told:,} prompt tokens of {chars:,} characters, {why}"
                return ItemFailed(kind, f"{kind}: {detail}. {_ADVICE}", lasting=True)
        else:  # llama.cpp's server tells none in streams: no token is shorter than a byte
            came = len(completion.content.encode("utf-8", "replace")) + completion.reasoning_bytes
        if came < _FULL_SHARE * was_cut and (told or completion.content):
            kind = "cut off: the context is full"
            detail = f"after at most {came:,} of max_tokens {was_cut:,}"
            limit = "unless the server has a limit of its own for replies"
            return ItemFailed(kind, f"{kind}: {detail}, {limit}. {_ADVICE}", lasting=True)
        return None
