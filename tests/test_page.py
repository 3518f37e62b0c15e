"""Markdown that text from outside cannot break, and templates."""

from __future__ import annotations

import math

import pytest

from common.files import UserError
from common.report import markdown
from common.report.markdown import Markdown, fill, shown, written


@pytest.mark.parametrize(
    "text, as_shown",
    [
        ("plain words", "plain words"),
        ("two\nlines\r\n and\ttabs ", "two lines and tabs"),
        ("| a | `b` |", r"\| a \| \`b\` \|"),
        ("**b** _i_ ~~s~~ [x](y)", r"\*\*b\*\* \_i\_ \~\~s\~\~ \[x\](y)"),
        ("snake_case_name", "snake_case_name"),
        ("# head", r"\# head"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("0.50 USD", "0.50 USD"),
        ("<script>&amp;", "&lt;script&gt;&amp;amp;"),
        ("$x$", "&#36;x&#36;"),
        ("HTTPS://a.b ftp://c", "HTTPS&#58;//a.b ftp&#58;//c"),
        ("www.evil.example", "www&#46;evil.example"),
        ("@everyone", "@\u2060everyone"),
        ("right\u202eto\u200bleft", "righttoleft"),
        ("lone \ud83d surrogate", "lone \ufffd surrogate"),
        (7, "7"),
    ],
)
def test_text_from_outside_is_shown_as_it_is(text, as_shown):
    assert shown(text) == as_shown


def test_long_text_is_cut():
    assert shown("word " * 100, 20) == "word word word word…"
    assert len(shown("a" * 10_000_000)) == 200


@pytest.mark.parametrize(
    "value, form, as_written",
    [
        (1234567, "", "1,234,567"),
        (1234.56, "", "1,234.6"),
        (0.456, ".2f", "0.46"),
        (4, "+.1f", "+4.0"),
        (1 / 3, "%", "33 %"),
        (1, "turn", "1 turn"),
        (1200, "near-duplicate", "1,200 near-duplicates"),
        (None, ".1f", "–"),
        (math.nan, "%", "–"),
        (-math.inf, "", "–"),
        ([1.25, 3], ".1f", "1.2 to 3.0"),
        ((0.5, 1), "%", "50 % to 100 %"),
        ([None, 1.0], "", "–"),
        (["a", "*b*"], "", r"a, \*b\*"),
        ({"<a>": 0.5, "b": None}, "%", "&lt;a&gt; 50 %, b –"),
        ("a word", "4", "a w…"),
        ("text for a number", ".1f", "text for a number"),
        (Markdown("*ours*"), "", "*ours*"),
    ],
)
def test_each_value_has_one_way_to_be_written(value, form, as_written):
    assert written(value, form) == as_written


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A function that fills in a template given as text."""
    monkeypatch.setattr(markdown, "__file__", str(tmp_path / "markdown.py"))

    def fill_in(text: str, **figures) -> str:
        (tmp_path / "page.md").write_text(text, encoding="utf-8")
        return fill("page.md", **figures)

    return fill_in


def test_a_template_writes_every_value_and_stops_at_a_name_that_is_missing(page):
    text = (
        "# {{ title }}\n\n\n{% if none %}\ngone\n{% endif %}\n\n{{ a.b | form('.1f') }} {{ all }}"
    )
    assert page(text, title="t|t", none=None, a={"b": 0}, all=1234) == "# t\\|t\n\n0.0 1,234"
    for missing in ("{{ forgotten }}", "{{ a.forgotten }}", "{% if a.forgotten %}{% endif %}"):
        with pytest.raises(UserError, match="forgotten"):
            page(missing, a={})


def test_what_is_filled_in_is_text_and_no_template(page):
    assert page("{{ odd }}", odd="{{ turn }} # <b>") == "{{ turn }} # &lt;b&gt;"
    assert page("{{ ours }}", ours=Markdown("{{ turn }} <b>")) == "{{ turn }} <b>"
    assert page('{"json": {{ odd }}}', odd=1) == '{"json": 1}'
