"""Markdown that no text from outside can break, and the templates that it is filled into.

Each `{{ value }}` in one is written by `written`; `{{ value | form(".1f") }}` names the form.
"""

from __future__ import annotations

import math
import re
import unicodedata
from pathlib import Path

from common.files import UserError, clean_text

NOTHING = "–"  # in place of a figure that there is not


class Markdown(str):
    """Text that is Markdown already; any other text is escaped where it is filled in."""


# Controls and line ends become a blank; invisible marks and marks of direction go.
_CHARACTER_KINDS = {"Cc": " ", "Zl": " ", "Zp": " ", "Cf": ""}
_SIGNS = {sign: f"\\{sign}" for sign in "\\`*[]|~"}
_SIGNS |= {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "@": "@\u2060"}
_ESCAPES = (
    (r"(?<!\w)_+|_+(?!\w)", lambda run: r"\_" * len(run[0])),  # in a word no mark
    (r"^(\d+)([.)])(?=\s|$)", r"\1\\\2"),  # the number of a list
    (r"^([#+=-])", r"\\\1"),
    (r"(?i)(https?|ftp):(?=//)", r"\1&#58;"),
    (r"(?i)\b(www)\.", r"\1&#46;"),
)


def shown(text: object, limit: int = 200) -> Markdown:
    """Return text from outside as one line in which no Markdown, HTML, math or mention works."""
    signs = clean_text(str(text))[: 4 * limit]
    line = "".join(_CHARACTER_KINDS.get(unicodedata.category(sign), sign) for sign in signs)
    line = " ".join(line.split())
    if len(line) > limit:
        line = line[: limit - 1] + "…"
    line = line.translate(str.maketrans(_SIGNS))
    for pattern, escaped in _ESCAPES:
        line = re.sub(pattern, escaped, line)
    return Markdown(line)


def written(value: object, form: str = "") -> Markdown:
    """Return a value as a page shows it.

    Numbers take Python's forms (`+.1f`), `%` for a share, or a noun (`turn`) to be counted; of text
    the form is the most characters. A list of numbers is an interval; a list of texts is written
    with commas, and so is a dict, each name before its value.
    """
    if isinstance(value, Markdown):
        return value
    if isinstance(value, str):
        return shown(value, int(form) if form.isdecimal() else 200)
    if isinstance(value, dict):
        value = [Markdown(f"{written(name)} {written(of, form)}") for name, of in value.items()]
    if isinstance(value, (list, tuple)):
        parts = [written(part, form) for part in value]
        if all(isinstance(part, str) for part in value):
            return Markdown(", ".join(parts))
        return Markdown(NOTHING if NOTHING in parts else " to ".join(parts))
    if value is None or not math.isfinite(value):
        return Markdown(NOTHING)
    if form == "%":
        return Markdown(f"{100 * value:.0f} %")
    if re.fullmatch("[a-z][a-z -]+", form):
        return Markdown(f"{value:,} {form}" if value == 1 else f"{value:,} {form}s")
    return Markdown(format(value, form or ("," if isinstance(value, int) else ",.1f")))


def fill(file_name: str, /, **figures: object) -> Markdown:
    """Return a template filled in. Raises UserError for a figure that is not there."""
    import jinja2  # not needed for --help

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        finalize=written,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["form"] = written
    try:
        text = templates.get_template(file_name).render(figures)
    except jinja2.UndefinedError as missing:
        again = "Files of another version? Run python validate.py, then this."
        raise UserError(f"{file_name}: {missing}. {again}") from None
    return Markdown(re.sub(r"\n{3,}", "\n\n", text).strip())
