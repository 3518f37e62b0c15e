"""Markdown: templates, and text from outside that cannot break them.

A template is a Markdown file beside this module. In it stand `{name}` for a figure, `{name.key}`
for a part of one, `{name:form}` for one in a form that `written` knows. A line with a missing
figure (None, False or empty) is left out. A line may start with `{if name}`, `{unless name}` (0 is
no, too), or `{each turn of turns}`: then it is written for each, with a sign for what is missing.
"""

from __future__ import annotations

import math
import re
import unicodedata
from pathlib import Path

from common.files import clean_text

NOTHING = "–"  # in place of a figure that there is not


class Markdown(str):
    """Text that is Markdown already; any other text is escaped where it is filled in."""


# ------------------------------------------------------------------------------------------- text

# Controls and line ends become a blank; invisible marks and marks of direction go.
_CHARACTER_KINDS = {"Cc": " ", "Zl": " ", "Zp": " ", "Cf": ""}
_SIGNS = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "@": "@\u2060"}
_SIGNS |= {sign: f"\\{sign}" for sign in "\\`*[]|~"}
_OUTER_UNDERSCORES = re.compile(r"(?<!\w)_+|_+(?!\w)")  # inside a word they mark nothing
_LIST_NUMBER = re.compile(r"^(\d+)([.)])(?=\s|$)")
_LINE_MARK = re.compile(r"^([#+=-])")
_SCHEME = re.compile(r"(https?|ftp):(?=//)", re.IGNORECASE)
_WWW = re.compile(r"\b(www)\.", re.IGNORECASE)


def shown(text: object, limit: int = 200) -> Markdown:
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
    line = line.translate(str.maketrans(_SIGNS))
    line = _OUTER_UNDERSCORES.sub(lambda run: r"\_" * len(run[0]), line)
    line = _LIST_NUMBER.sub(r"\1\\\2", line)
    line = _LINE_MARK.sub(r"\\\1", line)
    line = _SCHEME.sub(r"\1&#58;", line)
    return Markdown(_WWW.sub(r"\1&#46;", line))


def written(value: object, form: str = "") -> Markdown:
    """Return a value as a page shows it.

    Numbers take Python's forms (`+.1f`), `%` for a share, or a noun (`turn`) to be counted; of text
    the form is the most characters. A list of two numbers is an interval, a list of texts is told
    with commas, and so is a dict, each name before its value.
    """
    if isinstance(value, Markdown):
        return value
    if isinstance(value, dict):
        pairs = [f"{written(name)} {written(part, form)}" for name, part in value.items()]
        return Markdown(", ".join(pairs))
    if isinstance(value, (list, tuple)):
        parts = [written(part, form) for part in value]
        if all(isinstance(part, str) for part in value):
            return Markdown(", ".join(parts))
        return Markdown(NOTHING if NOTHING in parts else " to ".join(parts))
    if isinstance(value, str):
        return shown(value, int(form) if form.isdecimal() else 200)
    if value is None or not math.isfinite(value):
        return Markdown(NOTHING)
    if form == "%":
        return Markdown(f"{100 * value:.0f} %")
    if _NOUN.fullmatch(form):
        return Markdown(f"{value:,} {form}" if value == 1 else f"{value:,} {form}s")
    return Markdown(format(value, form or ("," if isinstance(value, int) else ",.1f")))


# -------------------------------------------------------------------------------------- templates

_START = re.compile(r"\{(if|unless|each (\w+) of) ([\w.]+)\}")
_FIELD = re.compile(r"\{([a-z_]+(?:\.\w+)*)(?::([^{}]+))?\}")
_NOUN = re.compile("[a-z][a-z -]+")  # a list in this form is counted, and 0 is not missing


def fill(file_name: str, /, **figures: object) -> Markdown:
    """Return a template filled in. Raises KeyError for a name that is not among the figures."""
    lines: list[str] = []
    step = 0
    for line in Path(__file__).with_name(file_name).read_text(encoding="utf-8").splitlines():
        start = _START.match(line)
        if start:
            line = line[start.end() :]
            value = _look_up(start[3], figures)
            if start[2]:
                for item in value or ():
                    lines.append(_fill_line(line, {**figures, start[2]: item})[0])
                continue
            if bool(value) == (start[1] == "unless"):
                continue
        line, is_whole = _fill_line(line, figures)
        if not is_whole:
            continue
        if line.startswith("1. "):  # the steps of a list, of which some may be left out
            step += 1
            line = f"{step}.{line[2:]}"
        lines.append(line)
    return Markdown(re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip())


def _fill_line(line: str, figures: dict) -> tuple[str, bool]:
    """Return the line filled in, and whether no figure of it is missing."""
    is_whole = True

    def fill_field(field: re.Match) -> str:
        nonlocal is_whole
        form = field[2] or ""
        value = _look_up(field[1], figures)
        if isinstance(value, (dict, list)) and _NOUN.fullmatch(form):
            value = len(value)
        if value is None or value is False or value in ("", [], {}):
            is_whole = False
        return written(value, form)

    return _FIELD.sub(fill_field, line), is_whole


def _look_up(path: str, figures: dict) -> object:
    name, *keys = path.split(".")
    value = figures[name]
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key)
        elif value is not None:
            value = getattr(value, key)
    return value
