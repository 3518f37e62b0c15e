"""A reply as it is kept, and how a completion turns out to hold none."""

from __future__ import annotations

from dataclasses import dataclass

from common.client.completion import Completion
from common.client.faults import ItemFailed


class NoAcceptableReply(ItemFailed):
    """Every reply was refused; `last` is the last one that came, empty or cut off as it may be."""

    def __init__(self, kind: str, detail: str, last: Reply):
        super().__init__(kind, detail)
        self.last = last


@dataclass
class Reply:
    """A reply as it is kept: `text` without reasoning.

    `usage` is of this reply; `usage_all_tries`, `cost_usd` and `tries` are of all that it took.
    """

    text: str
    finish_reason: str
    usage: dict
    usage_all_tries: dict
    cost_usd: float | None
    model: str
    model_answered: str
    invocation_id: str
    asked_at: str
    time_s: float
    tries: int
    sampling: dict

    def meta(self) -> dict:
        """Return all but the text, for a file's `meta`."""
        return {name: value for name, value in vars(self).items() if name != "text"}


def no_reply(completion: Completion, text: str) -> str | None:
    """Say why a completion holds no reply at all; None when it does."""
    if completion.finish_reason == "length":
        return "cut off at max_tokens" if text else "empty: all of max_tokens went into reasoning"
    if completion.finish_reason in ("tool_calls", "function_call"):
        return "a tool call instead of text"
    return None if text else "empty"
