"""Markdown that text from outside cannot break, tables, templates."""

from __future__ import annotations

import math

import pytest

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


def test_a_line_with_a_missing_figure_goes(page):
    text = (
        "# {title}\n\n{none}\n\nend\n\n- {a.b:.1f} {c.d}\n- {a.x} is not there\n- {c.e.f} nor this"
    )
    filled = page(text, title="t", none=None, a={"b": 0}, c={"d": "x", "e": None})
    assert filled == "# t\n\nend\n\n- 0.0 x"
    with pytest.raises(KeyError):
        page("{title} {forgotten}", title="t")


def test_a_figure_may_decide_on_its_line(page):
    text = "{if a}a\n{unless a}no a\n{if b}b\n{unless b}no b\n{unless c}no c\n1. {b}x\n1. y\n1. z"
    assert page(text, a=True, b=[], c=0) == "a\nno b\nno c\n1. y\n2. z"


def test_a_line_is_written_for_each_of_many(page):
    line = "{each one of of}- {one.x:.1f} {one.y} of {all}"
    text = f"{{of:thing}}\n{line}\n{{if none}}| a |\n{{each one of none}}{{one.x}}"
    things = [{"x": 1, "y": "|"}, {"x": None, "y": "b"}]
    assert page(text, of=things, all=2, none=[]) == "2 things\n- 1.0 \\| of 2\n- – b of 2"
    assert page("{none:thing}", none=[]) == "0 things"


def test_what_is_filled_in_is_text_and_no_template(page):
    assert page("{odd}", odd="{turn} # <b>") == "{turn} # &lt;b&gt;"
    assert page("{ours}", ours=Markdown("{turn} <b>")) == "{turn} <b>"
    assert page('{"json": {odd}}', odd=1) == '{"json": 1}'
