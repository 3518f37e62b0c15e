"""Labels by hand: what is read, what is refused, what is computed from them."""

from __future__ import annotations

import pytest

from common.files import UserError
from common.page.labels import (
    Label,
    clopper_pearson,
    compare_labels,
    correlation,
    label_sha,
    read_labels,
)

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
        "a_1": Label("a_1", "challenger", 3.5, SHA),
        "a_2": Label("a_2", "king", 8.0, SHA),
        "a_3": Label("a_3", "skip", 1.0, SHA),
    }
    assert read_labels(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("", 1, "expected the columns stem,preferred,seconds,sha"),
        ("stem;preferred;seconds;sha\n", 1, "expected the columns"),
        (f"{HEADER}a_1,chalenger,3,{SHA}\n", 2, "preferred is 'chalenger'; expected one of"),
        (f"{HEADER}a_1,level,3,{SHA}\na_2,level,fast,{SHA}\n", 3, "seconds is 'fast'; expected"),
        (f"{HEADER}a_1,level,nan,{SHA}\n", 2, "seconds is 'nan'"),
        (f"{HEADER}a_1,level,-1,{SHA}\n", 2, "seconds is '-1'"),
        (f"{HEADER}a_1,level,3\n", 2, "expected 4 values"),
        (f"{HEADER}a_1,level,3,{SHA[:-1]}\n", 2, "expected 16 hex digits"),
        (f"{HEADER}../a,level,3,{SHA}\n", 2, "expected the name of a turn"),
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
    with pytest.raises(UserError, match="expected a text file in UTF-8"):
        read_labels(tmp_path)


def turn(bucket: str, score: float, **judges: float | None) -> dict:
    return {"sha": SHA, "bucket": bucket, "score": score, "by_judge": judges}


def test_compares_the_panel_with_the_person():
    turns = {
        "t_1": turn("final", 90, good=100, poor=80),
        "t_2": turn("final", 85, good=50, poor=100),
        "t_3": turn("final", 82, good=0, poor=100),
        "t_4": turn("defeat", 10, good=0, poor=100),
        "t_5": turn("defeat", 20, good=100, poor=None),
        "t_6": turn("refined", 70, good=50, poor=50),
        "t_7": turn("final", 90, good=50, poor=50),
    }
    given = {"t_1": "challenger", "t_2": "level", "t_3": "king", "t_4": "king"}
    given |= {"t_5": "challenger", "t_6": "skip", "gone_1": "king"}
    labels = {stem: Label(stem, preferred, 1.0, SHA) for stem, preferred in given.items()}
    labels["t_7"] = Label("t_7", "king", 1.0, label_sha("king", "an older reply"))

    found = compare_labels(labels, turns)
    assert (found.labels, found.skipped, found.stale) == (5, 1, 2)
    assert (found.not_worse, found.final) == (2, 3)
    assert found.interval == clopper_pearson(2, 3)
    assert found.judges["good"] == pytest.approx(1.0)
    assert found.judges["poor"] < 0
    assert found.differences == [("t_3", "king", 82), ("t_5", "challenger", 20)]


def test_without_labels_nothing_is_claimed():
    found = compare_labels({}, {"t_1": turn("final", 90, one=90)})
    assert (found.labels, found.final, found.interval) == (0, 0, (0.0, 1.0))
    assert found.panel is None and found.judges == {}


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),  # from scipy.stats.beta
    [
        (0, 10, 0.0, 0.2588655509),
        (10, 10, 0.7411344491, 1.0),
        (3, 7, 0.1287563928, 0.7746784160),
        (37, 40, 0.8174131500, 0.9792463985),
        (45, 50, 0.8011669975, 0.9597634096),
        (700, 1000, 0.6752463873, 0.7238772288),
        (0, 0, 0.0, 1.0),
    ],
)
def test_clopper_pearson(hits, count, low, high):
    assert clopper_pearson(hits, count) == pytest.approx((low, high), abs=1e-9)


def test_correlation_is_of_ranks_and_says_when_it_cannot_tell():
    assert correlation([0, 50, 100], [1, 2, 1000]) == pytest.approx(1)
    assert correlation([0, 50, 100], [3, 2, 1]) == pytest.approx(-1)
    # ranks with ties: (1.5, 1.5, 3, 4) and (1, 2, 3.5, 3.5), so 4 / 4.5
    assert correlation([0, 0, 50, 100], [1, 2, 9, 9]) == pytest.approx(4 / 4.5)
    assert correlation([0, 100], [0, 100]) is None
    assert correlation([50, 50, 50], [1, 2, 3]) is None
    assert correlation([0, 50, 100], [None, 2, 1]) is None
