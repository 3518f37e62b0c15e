"""Markdown: text from outside shown as it is, numbers, tables, and templates.

A template file holds blocks, each under a line `<!-- name -->`; its $names are filled in.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from string import Template

from common.files import clean_text

NOTHING = "–"  # in place of a figure that there is not


# ------------------------------------------------------------------------------------------- text

# Controls and line ends become a blank; invisible marks and marks of direction go.
_CHARACTER_KINDS = {"Cc": " ", "Zl": " ", "Zp": " ", "Cf": ""}
_MARKS = re.compile(r"([\\`*\[\]|~])")
_OUTER_UNDERSCORES = re.compile(r"(?<!\w)_+|_+(?!\w)")  # inside a word they mark nothing
_LIST_NUMBER = re.compile(r"^(\d+)([.)])")
_LINE_MARK = re.compile(r"^([#+=-])")
_SCHEME = re.compile(r"(https?|ftp):(?=//)", re.IGNORECASE)
_WWW = re.compile(r"\bwww\.", re.IGNORECASE)


def shown(text: object, limit: int = 200) -> str:
    """Return text from outside as one line that every Markdown viewer shows as it is.

    Nothing in it works as Markdown, HTML, GitHub's math, a link or an @mention.
    """
    characters = []
    for character in clean_text(str(text))[: 4 * limit]:
        kind = unicodedata.category(character)
        characters.append(_CHARACTER_KINDS.get(kind, character))
    line = " ".join("".join(characters).split())
    if len(line) > limit:
        line = line[: limit - 1] + "…"
    line = _MARKS.sub(r"\\\1", line)
    line = _OUTER_UNDERSCORES.sub(lambda run: r"\_" * len(run[0]), line)
    line = _LIST_NUMBER.sub(r"\1\\\2", line)
    line = _LINE_MARK.sub(r"\\\1", line)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = line.replace("$", "&#36;")
    line = _SCHEME.sub(r"\1&#58;", line)
    line = _WWW.sub("www&#46;", line)
    return line.replace("@", "@\u2060")


def number(value: float | None, digits: int = 1) -> str:
    """Return a number with thousands' commas; a whole number without decimals."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def percent(part: float | None, whole: float = 1) -> str:
    """Return a share as a whole percentage."""
    if part is None or not whole:
        return NOTHING
    return f"{100 * part / whole:.0f} %"


def span(bounds: Iterable[float | None] | None, digits: int = 1) -> str:
    """Return an interval as "low to high"; nothing where it has no end."""
    ends = [number(bound, digits) for bound in bounds or [None]]
    return NOTHING if NOTHING in ends else " to ".join(ends)


def count(n: int, what: str) -> str:
    """Return a number with its noun: 1 turn, 2 turns."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def table(headers: str, rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table. Headers are parted by |; one that ends in # is over numbers.

    Cells are numbers, None, or text that is Markdown already.
    """
    names = []
    rules = []
    for header in headers.split("|"):
        header = header.strip()
        names.append(header.rstrip("# "))
        rules.append("---:" if header.endswith("#") else "---")
    lines = [names, rules]
    for row in rows:
        lines.append([cell if isinstance(cell, str) else number(cell) for cell in row])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# -------------------------------------------------------------------------------------- templates


@cache
def blocks(file_name: str) -> dict[str, Template]:
    """Return the named blocks of a template file of this folder."""
    text = Path(__file__).with_name(file_name).read_text(encoding="utf-8")
    parts = re.split(r"^<!-- (\w+) -->\n", text, flags=re.MULTILINE)
    found = {}
    for name, block in zip(parts[1::2], parts[2::2], strict=True):
        found[name] = Template(block.strip())
    return found


def fill(template: Template, /, **values: object) -> str:
    """Return a template with its $names filled in; paragraphs that stay empty close up."""
    text = template.substitute(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def say(name: str, /, **values: object) -> str:
    """Return one of the sentences of sentences.md, as one line."""
    return " ".join(fill(blocks("sentences.md")[name], **values).split("\n"))


def report_block(name: str, /, **values: object) -> str:
    """Return a block of report.md, filled in."""
    return fill(blocks("report.md")[name], **values)
