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
_AMID_A_SENTENCE = re.compile(r"[^\s.!?…][ \t]+\Z|[(\[{'“‘«*]\Z")
_BARE_COMMAND = re.compile(r"```[^\n]*(?:\n(?!\s*\{)|\Z)")  # a code block that holds no object
# How an answer begins that is whole without the pair before it, whatever that is called.
_WHOLE_ANSWERS = ("THOUGHT", "{", "```json")
_MOST_PAIRS = 8  # one after the other; no model is known to make more than two


def visible_text(content: str) -> str:
    """Return the answer without the reasoning at its head: "" where no answer follows it."""
    text = content.strip()
    for _ in range(_MOST_PAIRS):
        marks, head, closing = _marks(text)
        if head:
            answer = text[closing.end() :].strip() if closing else ""
            is_sure = _is_reasoning(head) or answer.startswith(_WHOLE_ANSWERS)
        else:
            closing = next(filter(_is_reasoning, marks), None)
            if not closing or not _closes(closing) or _is_amid_a_sentence(closing):
                return text
            answer = text[closing.end() :].lstrip(" \t\r")
            is_sure = answer[:1] in ("", "\n", "{", "`") or answer[:1].isupper()
            answer = answer.strip()
        # The thought of a bare command may stand between such marks, but never in <think>.
        is_thinking = head and "think" in head["name"].lower()
        if not is_sure or (_BARE_COMMAND.match(answer) and not is_thinking):
            return text
        text = answer
    return text


def reasoning_left(text: str) -> str:
    """Return the mark of reasoning that stands in a text, at its head or not; "" where none does.

    A pair of another name counts at the head; of a pair amid a sentence the first decides.
    """
    marks, head, closing = _marks(text.strip())
    if closing:
        return head[0]
    first = next(filter(_is_reasoning, marks), None)
    return "" if first is None or _is_amid_a_sentence(first) else first[0]


def _marks(text: str) -> tuple[list[re.Match], re.Match | None, re.Match | None]:
    """Return the marks outside code and quotes, the one that opens the text, the one that ends it.

    None where no mark opens the text, or none ends what that opens.
    """
    if not _MARK.search(text):
        return [], None, None
    quoted = _JSON_TEXT if text.startswith("{") else _QUOTED
    marks = list(_MARK.finditer(quoted.sub(lambda found: " " * len(found[0]), text)))
    if not marks or marks[0].start() > 0 or _closes(marks[0]):
        return marks, None, None
    head = marks[0]
    for mark in filter(_closes, marks):
        is_same = mark["name"].lower() == head["name"].lower()
        if is_same or (_is_reasoning(mark) and _is_reasoning(head)):
            return marks, head, mark
    # A draft's block may have stayed open.
    return marks, head, _CLOSING_LINE.search(text) if _is_reasoning(head) else None


def _closes(mark: re.Match) -> bool:
    is_end = mark["name"].lower().startswith("end")
    return bool(mark["slash"] or is_end or (mark["tail"] and not mark["bar"]))


def _is_reasoning(mark: re.Match) -> bool:
    word = "" if _closes(mark) else mark["word"] or ""
    return bool(_REASONING.search(f"{mark['name']} {word}".lower()))


def _is_amid_a_sentence(mark: re.Match) -> bool:
    before = mark.string[max(0, mark.start() - 200) : mark.start()]  # all is slow for a flood
    if before.rstrip(" \t")[-1:] in ("", "\n"):  # a wrapped line of the sentence, if it goes on
        after = mark.string[mark.end() : mark.end() + 2]
        return after[:1] == " " and after[1:].islower()
    return bool(_AMID_A_SENTENCE.search(before))
