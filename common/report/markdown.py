"""Markdown that no text from outside can break, and the templates that it is filled into.

Templates are Jinja2's and lie beside this module. Each `{{ value }}` in one is written by
`written`; `{{ value | form(".1f") }}` says in which form. A name that was not given is an error.
"""

from __future__ import annotations

import math
import re
import unicodedata
from functools import lru_cache
from pathlib import Path

from common.files import UserError, clean_text

NOTHING = "–"  # in place of a figure that there is not


class Markdown(str):
    """Text that is Markdown already; any other text is escaped where it is filled in."""


# Controls and line ends become a blank; invisible marks and marks of direction go.
_CHARACTER_KINDS = {"Cc": " ", "Zl": " ", "Zp": " ", "Cf": ""}
_SIGNS = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "@": "@\u2060"}
_SIGNS |= {sign: f"\\{sign}" for sign in "\\`*[]|~"}
_ESCAPES = (
    (re.compile(r"(?<!\w)_+|_+(?!\w)"), lambda run: r"\_" * len(run[0])),  # in a word no mark
    (re.compile(r"^(\d+)([.)])(?=\s|$)"), r"\1\\\2"),  # the number of a list
    (re.compile(r"^([#+=-])"), r"\\\1"),
    (re.compile(r"(https?|ftp):(?=//)", re.IGNORECASE), r"\1&#58;"),
    (re.compile(r"\b(www)\.", re.IGNORECASE), r"\1&#46;"),
)
_NOUN = re.compile("[a-z][a-z -]+")


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
    for pattern, escaped in _ESCAPES:
        line = pattern.sub(escaped, line)
    return Markdown(line)


def written(value: object, form: str = "") -> Markdown:
    """Return a value as a page shows it.

    Numbers take Python's forms (`+.1f`), `%` for a share, or a noun (`turn`) to be counted; of text
    the form is the most characters. A list of numbers is an interval; a list of texts is written
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


@lru_cache
def _templates():
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # not needed for --help

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        finalize=written,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["form"] = written
    return templates


def fill(file_name: str, /, **figures: object) -> Markdown:
    """Return a template filled in. Raises UserError for a figure that is not there."""
    from jinja2 import UndefinedError

    try:
        text = _templates().get_template(file_name).render(figures)
    except UndefinedError as missing:
        raise UserError(
            f"{file_name}: {missing}. Files of another version? Run python validate.py, then this."
        ) from None
    return Markdown(re.sub(r"\n{3,}", "\n\n", text).strip())
