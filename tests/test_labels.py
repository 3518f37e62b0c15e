"""Labels by hand: what is read, what is refused, what is computed from them."""

from __future__ import annotations

import pytest

from common.files import UserError
from common.report.rows import Row, label_sha
from common.report.turns_page import compare_labels, read_labels, share_of

HEADER = "stem,preferred,seconds,sha\n"
SHA = label_sha("king", "challenger")


def test_reads_every_file_and_the_later_one_counts(tmp_path):
    (tmp_path / "labels.csv").write_text(
        f"{HEADER}a_1,challenger,3.5,{SHA}\n\na_2,level,0,{SHA}\n", encoding="utf-8"
    )
    (tmp_path / "labels (1).csv").write_text(
        f"\ufeff{HEADER}a_2,king,8,{SHA}\r\n a_3 , skip ,1, {SHA}\r\n", encoding="utf-8"
    )
    (tmp_path / "other.csv").write_text("nothing of ours")
    assert read_labels(tmp_path) == {
        "a_1": ("challenger", SHA),
        "a_2": ("king", SHA),
        "a_3": ("skip", SHA),
    }
    assert read_labels(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("", 1, "expected the columns stem,preferred,seconds,sha"),
        ("stem;preferred;seconds;sha\n", 1, "expected the columns"),
        (f"{HEADER}a_1,chalenger,3,{SHA}\n", 2, "one of challenger, level, king, reference, skip"),
        (f"{HEADER}a_1,level,3,{SHA}\na_2,level,fast,{SHA}\n", 3, "found 'a_2,level,fast,"),
        (f"{HEADER}a_1,level,nan,{SHA}\n", 2, "a number from 0"),
        (f"{HEADER}a_1,level,-1,{SHA}\n", 2, "a number from 0"),
        (f"{HEADER}a_1,level,3\n", 2, "found 'a_1,level,3'"),
        (f"{HEADER}a_1,level,3,{SHA[:-1]}\n", 2, "16 hex digits"),
        (f"{HEADER}../a,level,3,{SHA}\n", 2, "a turn's name"),
    ],
)
def test_a_mistyped_file_is_told_by_line(tmp_path, text, line, expected):
    path = tmp_path / "labels_me.csv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_labels(tmp_path)
    assert str(error.value).startswith(f"{path}, line {line}: ")
    assert expected in str(error.value)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00s")
    with pytest.raises(UserError, match="line 1: expected the columns"):
        read_labels(tmp_path)


def row(stem: str, bucket: str, score: float, **judges: float | None) -> Row:
    return Row(stem, bucket=bucket, score=score, by_judge=judges, label_sha=SHA)


def test_compares_the_panel_with_the_person():
    rows = [
        row("t_1", "final", 90, good=100, poor=80),
        row("t_2", "final", 85, good=50, poor=100),
        row("t_3", "final", 82, good=0, poor=100),
        row("t_4", "defeat", 10, good=0, poor=100),
        row("t_5", "defeat", 20, good=100, poor=None),
        row("t_6", "refined", 70, good=50, poor=50),
        row("t_7", "final", 90, good=50, poor=50),
    ]
    given = {"t_1": "challenger", "t_2": "level", "t_3": "king", "t_4": "king"}
    given |= {"t_5": "challenger", "t_6": "skip", "gone_1": "king"}
    labels = {stem: (preferred, SHA) for stem, preferred in given.items()}
    labels["t_7"] = ("king", label_sha("king", "an older reply"))

    found = compare_labels(labels, rows)
    assert (found["labels"], found["skipped"], found["stale"]) == (5, 1, 2)
    assert (found["not_worse"], found["final"]) == (2, 3)
    assert found["interval"] == share_of(2, 3)["interval"]
    apart = [(turn["row"].stem, turn["preferred"]) for turn in found["differences"]]
    assert apart == [("t_3", "king"), ("t_5", "challenger")]


def test_without_labels_nothing_is_claimed():
    found = compare_labels({}, [row("t_1", "final", 90, one=90)])
    assert (found["labels"], found["final"], found["interval"]) == (0, 0, (0.0, 1.0))


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),  # the score test's equation, solved for its two roots
    [
        (0, 10, 0.0, 0.2129420),
        (10, 10, 0.7870580, 1.0),
        (37, 40, 0.8265198, 0.9696297),
        (700, 1000, 0.6756502, 0.7232705),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilsons_interval(hits, count, low, high):
    assert share_of(hits, count)["interval"] == pytest.approx((low, high), abs=1e-5)
