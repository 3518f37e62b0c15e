"""Reasoning that stands inside the content of a reply: only what follows it is the answer.

Servers without the right parser leave it at the head, in a pair of marks of whatever name
(`<think>`, `[THINK]`, `<seed:think>`, `<|channel>thought ... <channel|>`), or before a closing mark
alone. A mark in code, in quotes or amid a sentence is text. Where that is in doubt nothing is cut,
and `reasoning_left` names the mark.
"""

from __future__ import annotations

import re

# Brackets (◁ is of Kimi's older models), perhaps bars and a slash, and a name, perhaps with
# attributes, but for a link's [name](url). A word alone on the line may name the mark, too:
# `<|channel>thought`. `<think/>` is a closing mark: what precedes it has ended.
_MARK = re.compile(
    r"[<\[◁【]{1,2}(?P<bar>[|｜]?)(?P<slash>/?)(?P<name>[A-Za-z][\w:.-]{0,40})"
    r"(?: [\w-]{1,40}=[^<>\n]{0,200}?)?(?P<tail>[|｜]| ?/|)"
    r"[>\]▷】]{1,2}(?!\()(?:(?=(?P<word>\w{1,20})\n))?"
)
# Names of reasoning. A pair of any other name may be the answer's own, such as HTML.
_REASONING = re.compile(
    r"(?:^|[\W_])(?:think|thinking|thoughts?|reason|reasoning|reflection|analysis|scratchpad"
    r"|monologue|rationale)(?:[\W_\d]|$)"
)
_QUOTED = re.compile(
    r"^[ \t]*```[^`\n]*\n.*?(?:^[ \t]*```[ \t]*$|\Z)|`[^`\n]*`|\"[^\"\n]*\"", re.M | re.S
)
_JSON_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"', re.S)  # with raw line ends, too
_CLOSING_LINE = re.compile(r"^</[\w:]*(?:think|thought)[\w:]*>$", re.M | re.I)
# How an answer begins that is whole without the pair before it, whatever that is called.
_WHOLE_ANSWERS = ("THOUGHT", "{", "```json")
_BEFORE_A_QUOTED_MARK = tuple("([{'“‘«*")
_MOST_PAIRS = 8  # one after the other; no model is known to make more than two


def visible_text(content: str) -> str:
    """Return the answer without the reasoning at its head: "" where no answer follows it."""
    text = content.strip()
    for _ in range(_MOST_PAIRS):
        rest = _after_reasoning(text)
        if rest is None:
            break
        text = rest
    return text


def reasoning_left(text: str) -> str:
    """Return the mark of reasoning that stands in a text, at its head or not; "" where none does.

    A pair of another name counts at the head.
    """
    plain = _without_quotations(text.strip())
    head = _MARK.match(plain)
    if head and any(_is_pair(head, mark) for mark in _MARK.finditer(plain)):
        return head[0]
    for mark in filter(_of_reasoning, _MARK.finditer(plain)):
        # Of a pair amid a sentence the first decides.
        return "" if _is_in_a_sentence(plain, mark) else mark[0]
    return ""


def _after_reasoning(text: str) -> str | None:
    """Return what follows the reasoning at the head of a text; None where nothing is to be cut."""
    plain = _without_quotations(text)
    head = _MARK.match(plain)
    if head and not _closes(head):
        closing = next((mark for mark in _MARK.finditer(plain) if _is_pair(head, mark)), None)
        if not closing and not _of_reasoning(head):
            return None
        # A draft's block may have stayed open.
        closing = closing or _CLOSING_LINE.search(text)
        answer = text[closing.end() :].strip() if closing else ""
        if not _of_reasoning(head) and not answer.startswith(_WHOLE_ANSWERS):
            return None
        # The reply's own thought may stand between such marks, but never in <think>.
        own = _is_bare_command(answer) and "think" not in head["name"].lower()
        return None if own else answer
    closing = next(filter(_of_reasoning, _MARK.finditer(plain)), None)
    if not closing or not _closes(closing) or _is_in_a_sentence(plain, closing):
        return None
    rest = text[closing.end() :].lstrip(" \t\r")
    begins_anew = rest[:1] in ("", "\n", "{", "`") or rest[:1].isupper()
    return rest.strip() if begins_anew and not _is_bare_command(rest.strip()) else None


def _without_quotations(text: str) -> str:
    """Return a text with blanks for its code blocks, inline code and quotes; "" without marks."""
    if not _MARK.search(text):
        return ""
    quoted = _JSON_TEXT if text.startswith("{") else _QUOTED
    return quoted.sub(lambda found: " " * len(found[0]), text)


def _closes(mark: re.Match) -> bool:
    is_end = mark["name"].lower().startswith("end")
    return bool(mark["slash"] or is_end or (mark["tail"] and not mark["bar"]))


def _of_reasoning(mark: re.Match) -> bool:
    word = "" if _closes(mark) else mark["word"] or ""
    return bool(_REASONING.search(f"{mark['name']} {word}".lower()))


def _is_pair(opening: re.Match, mark: re.Match) -> bool:
    is_same = mark["name"].lower() == opening["name"].lower()
    is_alike = is_same or (_of_reasoning(opening) and _of_reasoning(mark))
    return is_alike and _closes(mark) and not _closes(opening)


def _is_in_a_sentence(plain: str, mark: re.Match) -> bool:
    """Return whether a mark stands amid a sentence or after an opening quote."""
    before = plain[max(0, mark.start() - 200) : mark.start()]  # all would be slow for a flood
    sentence = before.rstrip(" \t")
    if sentence[-1:] in ("", "\n"):
        after = plain[mark.end() : mark.end() + 2]
        return after[:1] == " " and after[1:].islower()
    goes_on = before != sentence and sentence[-1:] not in ".!?…"
    return goes_on or before.endswith(_BEFORE_A_QUOTED_MARK)


def _is_bare_command(answer: str) -> bool:
    """Return whether an answer begins with a code block, which holds no judge's object."""
    return answer.startswith("```") and not answer.partition("\n")[2].lstrip().startswith("{")
