"""A server whose context does not hold a chat says so by its counts of tokens."""

from __future__ import annotations

import re

from common.client.costs import prompt_chars
from common.files import ItemFailed

# Two chats may well have one count of tokens, but hardly if no other has more and if one is so many
# times as long as the other.
_OTHER_LENGTH = 2
_SHORT = 1000  # tokens: no context is so small that it cuts fewer
# What stands between blanks and ASCII's marks: a token at least, 1.2 to 1.4 in English prose, two
# and more in code and other languages. A tenth less is for tokenizers that join words. Nor is a
# token of running text longer than the longest words; scripts without blanks have 1 to 4 letters.
_WORD = re.compile(r"[^\s!-/:-@\[-^`{-~]+")
_LEAST_TOKENS_OF_A_WORD = 0.9
_LETTERS_OF_A_TOKEN = 12
_CHARS_OF_A_TOKEN = 4.5  # code and tool output have fewer: there the words need no counting
_FULL_SHARE = 0.95  # of max_tokens: servers count the end of a reply or not, some a few tokens less
_LARGER_CONTEXT = (
    "Give the server a larger one (Ollama: num_ctx or OLLAMA_CONTEXT_LENGTH; llama.cpp: n_ctx)."
)


class Contexts:
    """What is known of the contexts of a run's models."""

    def __init__(self):
        # By model: the most prompt tokens told, and the fewest and most characters of such chats
        self._largest: dict[str, tuple[int, int, int]] = {}

    def lack(self, model: str, messages: list, completion, was_cut: int) -> ItemFailed | None:
        """Return the failure where the context did not hold a chat; another ask would meet it, too.

        By the usage of a reply the prompt was cut, or the reply before its max_tokens: `was_cut`,
        0 for a reply that came to its own end.
        """
        told = completion.usage.get("prompt_tokens")
        if not told:  # llama.cpp's server tells none in streams: no token is shorter than a byte
            most = len(completion.content.encode("utf-8", "replace")) + completion.reasoning_bytes
            if completion.content and most < _FULL_SHARE * was_cut:
                return _full(f"after at most {most:,} of max_tokens {was_cut:,}")
            return None
        chars = prompt_chars(messages)
        largest, least, most = self._largest.get(model, (0, chars, chars))
        if told > largest:
            least = most = chars
        if told >= largest:
            least, most = min(least, chars), max(most, chars)
            self._largest[model] = told, least, most
        is_same = told >= largest and most > _OTHER_LENGTH * least
        bound = 0
        if told < chars / _CHARS_OF_A_TOKEN:
            bound = sum(_least_tokens(message["content"]) for message in messages)
        got = completion.usage["completion_tokens"] + completion.usage["reasoning_tokens"]
        if max(told, bound) >= _SHORT and (told < bound or is_same):
            why = f"which make {bound:,} or more" if told < bound else "as of twice or half as many"
            detail = f"it counts {told:,} prompt tokens of {chars:,} characters, {why}"
            return _failure("the server cut the prompt (its context; Ollama: num_ctx)", detail)
        if got < _FULL_SHARE * was_cut:
            return _full(f"after {got:,} of max_tokens {was_cut:,} and {told:,} prompt tokens")
        return None


def _full(how: str) -> ItemFailed:
    detail = f"{how}, unless the server has a limit of its own for replies"
    return _failure("cut off: the context is full", detail)


def _failure(kind: str, detail: str) -> ItemFailed:
    return ItemFailed(kind, f"{kind}: {detail}. {_LARGER_CONTEXT}", lasting=True)


def _least_tokens(text: str) -> int:
    """Return how many tokens any tokenizer makes of a text at least."""
    tokens = sum(max(1, len(word) // _LETTERS_OF_A_TOKEN) for word in _WORD.findall(text))
    return int(_LEAST_TOKENS_OF_A_WORD * tokens)
