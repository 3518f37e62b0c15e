"""The files that pass between the stages: each kind is read and scored here, by formats.py.

prompt/prompts_<count>_<k>.json   a list of prompts           prompt.py -> king.py
commit/<instance_id>.json         the PR record               prompt.py -> ch.py
answer_<i>/<stem>.json            chat, king, challenger      king.py, ch.py -> the later stages
score/<stem>.json                 verdicts and score          validate.py -> report.py

A reader raises BadFile for a file that is torn or not ours, and UserError where an earlier stage
has to run first. Paths are relative to the current directory.
"""

from __future__ import annotations

import os
from contextlib import suppress
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Annotated
from zlib import crc32

from pydantic import Field, TypeAdapter

from common import files
from common.config import METRICS
from common.files import BadFile, ItemFailed, UserError, digest, natural_key, read_json
from common.formats import Answer, Duel, Prompt, Score, read_as

# Instances that must never become training data.
EXCLUDED_IDS: frozenset[str] = frozenset()

FINAL_MIN = 80  # score points: from here a turn goes to final/
DEFEAT_MIN = 66  # below this to defeat/; in between to refined/
BUCKETS = ("final", "refined", "defeat")

PROMPTS_PER_FILE = 200
ORDERS = ("challenger-first", "challenger-second")
OPPONENT = {1: "assistant", 2: "king"}  # by DUEL_MODE: the answer's key that is compared with
SIDES = {"king": "king", "challenger": "challenger", "assistant": "reference"}  # keys, in words

# Of prompt/_plan.json: the lists of what sampling passed over, in words.
SAMPLING_LISTS = {
    "excluded": "excluded instances",
    "without_record": "instances without a PR record",
    "refused": "instances with an unsafe id",
    "in_benchmark": "instances of a benchmark",
    "other_license": "instances under another licence",
    "shows_fix": "chats that show the fix",
}


class Status(str, Enum):
    """What has become of a turn, from the first stage to the last."""

    NO_ANSWER = "no answer"  # a score without its answer
    BROKEN = "broken"  # a file of it is torn or foreign
    NO_CHALLENGER = "no challenger"
    NOT_JUDGED = "not judged"
    UNFINISHED = "unfinished"  # a verdict is missing: the provider did not answer
    STALE = "stale"  # judged, then its texts changed
    PARSE_FAIL = "parse-fail"  # every verdict came, one cannot be read
    EXCLUDED = "excluded"  # its instance, after it was answered: nothing more is asked of it
    PARSED = "parsed"  # the full panel answered readably in both orders

    def __str__(self) -> str:
        return self.value


# ----------------------------------------------------------------------- plan, prompts and records

_PROMPTS = TypeAdapter(Annotated[list[Prompt], Field(max_length=PROMPTS_PER_FILE)])
RECORD_KEYS = (
    "instance_id", "repo", "base_commit", "issue", "description", "files", "patch", "test_patch",
    "interface", "language", "created_at",
)  # fmt: skip


def read_plan(folder: Path | str) -> dict | None:
    """Return a folder's _plan.json, None without one. Raises BadFile."""
    path = Path(folder, "_plan.json")
    return read_json(path, ("seed",)) if path.exists() else None


def read_prompts(path: Path) -> list[dict]:
    """Return the prompts of one file. Raises UserError naming the file and the record."""
    try:
        return read_as(_PROMPTS, path)
    except BadFile as bad:
        raise UserError(f"{bad}\nprompt.py writes it: remove it and run prompt.py again.") from None


def read_record(instance_id: str) -> dict:
    """Return the PR record of an instance, keys as in RECORD_KEYS. Raises UserError, BadFile."""
    if not files.is_safe_name(instance_id):
        raise UserError(f"instance id not fit for a file name: {instance_id!r}")
    path = Path("commit", f"{instance_id}.json")
    try:
        record = read_json(path, RECORD_KEYS)
    except FileNotFoundError:
        raise UserError(f"{path} is missing. prompt.py writes it: run prompt.py again.") from None
    if record["instance_id"] != instance_id:
        raise BadFile(path, f"holds the record of {record['instance_id']!r}")
    return record


def record_of(instance_id: str) -> dict:
    """Return the PR record of an instance; without one the turn fails by ItemFailed."""
    try:
        return read_record(instance_id)
    except (UserError, BadFile) as problem:
        raise ItemFailed("no usable PR record: run prompt.py again", str(problem)) from None


def record_chars(record: dict) -> int:
    """Return the size of what the challenger's prompt would show of a record, in characters."""
    return sum(len(record[key] or "") for key in ("issue", "description", "patch", "interface"))


def hidden_record(record: dict, max_patch_chars: int) -> str:
    """Return the PR record as the challenger reads it; where a patch is cut, the text says so."""
    patch = record["patch"] or ""
    if len(patch) > max_patch_chars:
        shown = f"{max_patch_chars:,} of {len(patch):,} characters are shown"
        patch = f"{patch[:max_patch_chars]}\n[the patch is cut here: {shown}]"
    fields = {
        "Issue": record["issue"],
        "Description": record["description"],
        "Files changed": "\n".join(record["files"] or []),
        "Interface": record["interface"],
        "Patch": patch,
    }
    texts = [f"{name}:\n{text.strip()}" for name, text in fields.items() if (text or "").strip()]
    return "\n\n".join(texts)


def exclusion_reason(record: dict, max_record_chars: int, excluded_ids=EXCLUDED_IDS) -> str | None:
    """Return why an instance gets no king and no challenger; None when it does."""
    if record["instance_id"] in excluded_ids:
        return "on the list of excluded instances"
    if record_chars(record) > max_record_chars:
        what = "PR record too large for the challenger's prompt"
        return f"{what} (over {max_record_chars:,} characters)"
    return None


def why_excluded(instance_id: str, max_record_chars: int) -> str | None:
    """Return the `exclusion_reason` of an instance; without its record, by the list alone."""
    record = {**dict.fromkeys(RECORD_KEYS, ""), "instance_id": instance_id}
    with suppress(UserError, BadFile):
        record = read_record(instance_id)
    return exclusion_reason(record, max_record_chars, EXCLUDED_IDS)


# ----------------------------------------------------------------------------------------- answers

_ANSWER = TypeAdapter(Answer)
ANSWER_KEYS = ("instance_id", "messages", *SIDES)


def answer_folders() -> list[Path]:
    """Return the folders answer_0, answer_1, ... that exist, in numeric order."""
    found = [path.name for path in Path().glob("answer_[0-9]*") if path.is_dir()]
    return [Path(name) for name in sorted(found, key=natural_key) if name[7:].isdecimal()]


def answer_files(shard: tuple[int, int] | None = None) -> dict[str, Path]:
    """Return the answer file of each stem in natural order; of shard (I, N) by a hash of stems."""
    found: dict[str, list[Path]] = {}
    for path in chain.from_iterable(map(files.turn_files, answer_folders())):
        if shard is None or crc32(os.fsencode(path.stem)) % shard[1] == shard[0]:
            found.setdefault(path.stem, []).append(path)
    return {stem: first_filled(found[stem]) for stem in sorted(found, key=natural_key)}


def first_filled(paths: list[Path]) -> Path:
    """Return the first of a turn's answer files with a challenger, which was paid for, or any."""
    for path in paths if len(paths) > 1 else []:
        with suppress(BadFile):  # whoever reads it next says so
            if read_answer(path)["challenger"]:
                return path
    return paths[0]


def read_answer(path: Path) -> dict:
    """Return the answer at `path`; `meta` and its sides are objects, texts are never null."""
    answer = read_as(_ANSWER, path)
    if not files.is_safe_name(path.stem):
        raise BadFile(path, "a name that no stage of this pipeline gives")
    for side in SIDES:
        answer[side] = answer[side] or ""
    if not isinstance(answer.get("meta"), dict):
        answer["meta"] = {}
    for side in ("king", "challenger"):
        if not isinstance(answer["meta"].get(side), dict):
            answer["meta"][side] = {}
    return answer


def set_aside(bad: BadFile, what_next: str, write: bool = True) -> None:
    """Rename a torn or foreign file to <name>.bad and say so; without `write` only say so."""
    where = f": set aside as {files.printable(files.quarantine(bad.path).name)}" if write else ""
    print(f"{bad}{where}; {what_next}")


def chat_digest(messages: list[dict]) -> str:
    """Return a digest of a chat: every role and content."""
    return digest(*(message[key] for message in messages for key in ("role", "content")))


def text_digests(answer: dict) -> dict[str, str]:
    """Return a digest of the chat and of each reply, as score files keep them in `sha`."""
    sides = {side: digest(answer[side]) for side in SIDES}
    return {"chat": chat_digest(answer["messages"]), **sides}


# ----------------------------------------------------------------------------------------- scores

_SCORE = TypeAdapter(Score)
_DUEL = TypeAdapter(Duel)
MOST_HALF_POINTS = 2 * len(METRICS)  # of one verdict
UNREAD = -1  # in place of half-points, where a judge's answer could not be read
# The challenger's half-points by the call, 0 a draw, 1 and 2 the reply shown first and second.
_WORTH = {ORDERS[0]: {0: 1, 1: 2, 2: 0}, ORDERS[1]: {0: 1, 1: 0, 2: 2}}


def read_score(path: Path) -> dict:
    """Return the score file at `path`; each verdict has a `look`. Raises OSError, BadFile.

    Verdicts on other metrics than today's lie apart, in `on_other_metrics`, and count for nothing.
    """
    score = read_as(_SCORE, path)
    today = set(METRICS)
    if score["stem"] != path.stem:
        raise BadFile(path, f"holds the score of {score['stem']!r}")
    score.setdefault("score", None)
    if score["parsed"] != (score["status"] == "parsed"):
        raise BadFile(path, "keys 'parsed' and 'status' contradict each other")
    for look in ("", "_confirmed"):
        figures = [score.get(f"{figure}{look}") for figure in ("points", "max_points", "score")]
        is_there = score["parsed"] and (not look or figures != [None, None, None])
        if is_there and not is_share(*figures):
            raise BadFile(path, f"score{look} {figures[2]} is not 100 * points / max_points")
    # An older version stopped early; a parsed one may be of other metrics than today's.
    if score["status"] == "stopped" or score["parsed"] and set(score["metrics"] or ()) != today:
        score |= {"parsed": False, "status": Status.UNFINISHED.value}
    every = score["verdicts"] + score.pop("on_other_metrics", [])
    score["verdicts"] = []
    for verdict in every:
        is_finding = verdict.setdefault("look", 1) == 3
        calls = verdict["calls"]
        if calls and not is_finding and not {*calls.values()} <= {0, 1, 2}:
            raise BadFile(path, f"{verdict['judge']}, key 'calls': expected 0, 1 or 2 of each")
        if is_finding or calls is None or calls.keys() == today:
            score["verdicts"].append(verdict)
        else:
            score.setdefault("on_other_metrics", []).append(verdict)
    return score


def is_share(points: int | None, most: int | None, score: float | None) -> bool:
    """Tell whether a score is that of these points, with none of the three missing."""
    is_sound = None not in (points, score) and most and 0 <= points <= most
    return bool(is_sound) and abs(score - 100 * points / most) < 1e-6


def read_duel() -> dict | None:
    """Return score/_duel.json, None without one. Raises BadFile."""
    path = Path("score", "_duel.json")
    return read_as(_DUEL, path) if path.exists() else None


def half_points(verdict: dict) -> list[int]:
    """Return the challenger's half-points by metric: win 2, draw 1, loss 0, or all UNREAD."""
    if verdict["calls"] is None:
        return [UNREAD] * len(METRICS)
    worth = _WORTH[verdict["order"]]
    return [worth[verdict["calls"][metric]] for metric in METRICS]


def turn_score(verdicts: list[dict], judges: list[str], identical: bool = False) -> dict:
    """Return points, max_points, score, metrics and by_judge of a panel's verdicts.

    Scores are 0-100: the challenger's share of the half-points of the verdicts that could be read,
    divided last so that 80 is 80. A judge has one when both its orders were read.
    """
    draws = [[1] * len(METRICS)] * len(ORDERS)
    halves = {judge: draws if identical else [] for judge in judges}
    for verdict in verdicts:
        if verdict["calls"] is not None and not identical:
            halves[verdict["judge"]].append(half_points(verdict))
    readable = list(chain.from_iterable(halves.values()))
    points = sum(map(sum, readable))
    most = MOST_HALF_POINTS * len(readable)
    by_judge = dict.fromkeys(judges)
    for judge, both_orders in halves.items():
        if len(both_orders) == len(ORDERS):
            by_judge[judge] = 100 * sum(map(sum, both_orders)) / (MOST_HALF_POINTS * len(ORDERS))
    columns = zip(METRICS, zip(*readable))
    return {
        "points": points,
        "max_points": most,
        "score": 100 * points / most if readable else None,
        "metrics": {metric: 100 * sum(won) / (2 * len(won)) for metric, won in columns},
        "by_judge": by_judge,
    }


def bucket(score: dict, held_back: str = "") -> tuple[str | None, str]:
    """Return where a turn belongs (final, refined, defeat, or None while it has no score) and why.

    The second look's score decides where there is one. `held_back`, or the score file's own, says
    why a turn must not reach final/ whatever it scored. Compared in whole numbers: 80 is 80.
    """
    if score["status"] != Status.PARSED:
        return None, f"no score: {score['status']}"
    look = "" if score.get("points_confirmed") is None else "_confirmed"
    points = 100 * score[f"points{look}"]
    most = score[f"max_points{look}"]
    held_back = held_back or score.get("held_back")
    if points < DEFEAT_MIN * most:
        return "defeat", f"below {DEFEAT_MIN} points"
    if points < FINAL_MIN * most:
        return "refined", f"below {FINAL_MIN} points"
    if held_back:
        return "refined", f"held back from final/: {held_back}"
    return "final", f"{FINAL_MIN} points or more"
