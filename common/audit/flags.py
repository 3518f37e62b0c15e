"""Attempts on a judge: what in a reply is aimed at whoever judges it, or at the prompt's form."""

from __future__ import annotations

import re

from common.config import METRICS

_NAMES = "|".join(METRICS)
# A flag changes no score: it asks for a look. Searched in lower case; no pattern starts with \b,
# which would keep the search from skipping ahead.
_FLAGS = {
    "holds a verdict in JSON": re.compile(rf"""["'](?:{_NAMES})["']\s*:\s*["']?[012]\b"""),
    "talks to the judge": re.compile(
        r"(?:model|reply|response|answer|candidate|assistant|option)"
        r" ?#?(?:[12]|one|two|[ab])\b[ \t]*(?:wins?\b|beats\b|should win"
        r"|(?:is|was) (?:clearly |much |far )?(?:the )?(?:better|best|winner))"
        r"|(?:dear|hey|attention|note to the|note to any) (?:llm )?(?:judge|evaluator|grader)"
        r"|(?:prefer|choose|pick|score|rate|vote for) (?:this reply|reply [12]|model [12])\b"
        r"|ignore (?:all |any )?(?:the )?(?:previous|prior|above|earlier) instruction"
    ),
    "fake delimiter": re.compile(
        r"^[ \t>]*(?:={3}|-{3}|#{1,6}|<{2,3}|\[)[^\n]{0,40}?\b"
        r"(?:(?:reply|response|model|candidate)[ _]?[12ab]\b|end of (?:chat|reply))",
        re.MULTILINE,
    ),
    "fake turn": re.compile(
        r"^[ \t]*(?:\[|<|#{1,6} ?|\*\*)?(?:system|user|assistant|human|observation)"
        r"(?: message| prompt)?(?:\]|>|\*\*)?:(?:\*\*)?(?: |$)",
        re.MULTILINE,
    ),
    "chat-template token": re.compile(
        r"<\|[a-z_]{2,40}\|>|<｜[^<>\n]{1,40}｜>|\[/?inst\]|<</?sys>>"
        r"|</?(?:start|end)_of_turn>|</?think>"
    ),
    "invisible character": re.compile(
        "[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
    ),
}


def reply_flags(text: str) -> list[str]:
    """The names of what in a reply looks like an attempt on its judge; [] for an ordinary one."""
    text = text.lower()
    return [name for name, pattern in _FLAGS.items() if pattern.search(text)]
