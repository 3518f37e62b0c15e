"""Markdown that text from outside cannot break, tables, templates."""

from __future__ import annotations

import re
from string import Template

import pytest

from common.page.markdown import blocks, count, fill, number, percent, say, shown, span, table


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


def test_numbers():
    assert number(1234567) == "1,234,567"
    assert number(1234.56) == "1,234.6"
    assert number(0.456, 2) == "0.46"
    assert [number(value) for value in (None, float("nan"), float("-inf"))] == ["–", "–", "–"]
    assert [percent(1, 3), percent(0.5), percent(None), percent(1, 0)] == ["33 %", "50 %", "–", "–"]
    assert [span((1.25, 3), 2), span(None), span([None, 1.0])] == ["1.25 to 3", "–", "–"]
    assert [count(1, "turn"), count(1200, "turn")] == ["1 turn", "1,200 turns"]


def test_table():
    assert table("name | score # |", [("a", 1.25, ""), ("b", None, "few")]).splitlines() == [
        "| name | score |  |",
        "| --- | ---: | --- |",
        "| a | 1.2 |  |",
        "| b | – | few |",
    ]


def test_paragraphs_that_stay_empty_close_up():
    assert fill(Template("# $title\n\n$none\n\nend\n\n$none"), title="t", none="") == "# t\n\nend"
    with pytest.raises(KeyError):
        fill(Template("$title $forgotten"), title="t")


def test_what_is_filled_in_is_no_template():
    odd = "$turn ${turn} $$"
    assert say("label_apart", turn=odd, preferred="king", score=9) == (
        f"{odd}: you king, the panel 9"
    )


@pytest.mark.parametrize("name", ["report.md", "sentences.md", "hugePR.md", "card.md"])
def test_every_block_is_a_valid_template(name):
    assert blocks(name)
    for block in blocks(name).values():
        names = re.findall(r"\$\{?([a-z_0-9]+)", block.template)
        assert fill(block, **dict.fromkeys(names, "x"))
