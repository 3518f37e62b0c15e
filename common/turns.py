"""The files that pass between the stages: each kind is read, checked and scored here.

prompt/prompts_<count>_<k>.json   a list of prompts           prompt.py -> king.py
commit/<instance_id>.json         the PR record               prompt.py -> ch.py
answer_<i>/<stem>.json            chat, king, challenger      king.py, ch.py -> the later stages
score/<stem>.json                 verdicts and score          validate.py -> report.py
*/_plan.json, score/_duel.json    the sample, the duel

A reader raises BadFile for a file that is torn or not ours, and UserError where an earlier stage
has to run first. Paths are relative to the current directory.
"""

from __future__ import annotations

import math
from enum import Enum
from pathlib import Path
from zlib import crc32

from common.files import (
    BadFile,
    UserError,
    digest,
    is_safe_name,
    natural_key,
    read_json,
    turn_files,
)

# Instances that must never become training data. prompt.py --exclude FILE adds a user's own.
EXCLUDED_IDS: frozenset[str] = frozenset()

FINAL_MIN = 80  # score points: from here a turn goes to final/
DEFEAT_MIN = 66  # below this to defeat/; in between to refined/
BUCKETS = ("final", "refined", "defeat")

PROMPTS_PER_FILE = 200
METRICS = ("correctness", "grounding", "progress", "protocol", "efficiency")
ORDERS = ("challenger-first", "challenger-second")
OPPONENT = {1: "assistant", 2: "king"}  # by DUEL_MODE: the answer's key that is compared with
SIDES = {"king": "king", "challenger": "challenger", "assistant": "reference"}  # keys, in words


class Status(str, Enum):
    """What has become of a turn, from the first stage to the last."""

    NO_ANSWER = "no answer"  # a score without its answer
    BROKEN = "broken"  # a file of it is torn or foreign
    NO_CHALLENGER = "no challenger"
    NOT_JUDGED = "not judged"
    UNFINISHED = "unfinished"  # a verdict is missing: the provider did not answer
    STALE = "stale"  # judged, then its texts changed
    PARSE_FAIL = "parse-fail"  # every verdict came, one cannot be read
    STOPPED = "stopped"  # decided before the last verdict
    PARSED = "parsed"  # the full panel answered readably in both orders

    def __str__(self) -> str:
        return self.value


# ---------------------------------------------------------------------------------------- prompts


def is_chat(messages: object) -> bool:
    """Tell whether this is a chat: a list, not empty, of objects with role and content as text."""
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(
            isinstance(message, dict)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
            for message in messages
        )
    )


def chat_problem(messages: object) -> str | None:
    """Return what is wrong with the chat of a prompt or an answer; None when nothing is."""
    if not is_chat(messages):
        return "key 'messages': expected a list of {role, content} texts"
    if messages[-1]["role"] != "user":
        return "key 'messages': expected a chat that ends with a user message"
    return None


def read_prompts(path: Path) -> list[dict]:
    """Return the prompts of one file. Raises UserError naming the file and the record."""
    try:
        prompts = read_json(path)
    except BadFile as bad:
        raise UserError(
            f"{bad}\nprompt.py writes it: run prompt.py again, it repairs torn files."
        ) from None
    if not isinstance(prompts, list):
        found = type(prompts).__name__
        raise UserError(
            f"{path}: expected a list of prompts, found a {found}. Run prompt.py again."
        )
    if len(prompts) > PROMPTS_PER_FILE:
        raise UserError(
            f"{path}: {len(prompts)} prompts, expected at most {PROMPTS_PER_FILE}. "
            "Split it, or run prompt.py again."
        )
    for order, prompt in enumerate(prompts, 1):
        problem = prompt_problem(prompt)
        if problem:
            raise UserError(
                f"{path}, record {order}: {problem}.\n"
                "prompt.py writes it: remove the file and run prompt.py again."
            )
    return prompts


def prompt_problem(prompt: object) -> str | None:
    """Return what is wrong with one record of a prompts file; None when nothing is."""
    if not isinstance(prompt, dict):
        return "expected an object"
    for key in ("instance_id", "messages", "assistant"):
        if key not in prompt:
            return f"key {key!r} is missing"
    return chat_problem(prompt["messages"])


# Of prompt/_plan.json: the lists of what sampling passed over, in words.
SAMPLING_LISTS = {
    "excluded": "excluded instances",
    "without_record": "instances without a PR record",
    "refused": "instances with an unsafe id",
    "in_benchmark": "instances of a benchmark",
    "other_license": "instances under another licence",
    "shows_fix": "chats that show the fix",
}


def read_plan(folder: Path | str) -> dict | None:
    """Return a folder's _plan.json, None without one. Raises BadFile."""
    try:
        return read_json(Path(folder, "_plan.json"), ("seed",))
    except FileNotFoundError:
        return None


# ---------------------------------------------------------------------------------------- records

RECORD_KEYS = (
    "instance_id", "repo", "base_commit", "issue", "description", "files", "patch", "test_patch",
    "interface", "language", "created_at",
)  # fmt: skip


def read_record(instance_id: str) -> dict:
    """Return the PR record of an instance, keys as in RECORD_KEYS. Raises UserError, BadFile."""
    path = Path("commit", f"{instance_id}.json")
    try:
        record = read_json(path, RECORD_KEYS)
    except FileNotFoundError:
        raise UserError(f"{path} is missing. prompt.py writes it: run prompt.py again.") from None
    if record["instance_id"] != instance_id:
        raise BadFile(path, f"holds the record of {record['instance_id']!r}")
    return record


def record_chars(record: dict) -> int:
    """Return the size of what the challenger's prompt would show of a record, in characters."""
    return sum(len(record[key] or "") for key in ("issue", "description", "patch", "interface"))


def hidden_record(record: dict, max_patch_chars: int) -> str:
    """Return the PR record as the challenger reads it; where a patch is cut, the text says so."""
    patch = record["patch"] or ""
    if len(patch) > max_patch_chars:
        patch = patch[:max_patch_chars] + (
            f"\n[the patch is cut here: {max_patch_chars:,} of {len(patch):,} characters are shown]"
        )
    fields = [
        ("Issue", record["issue"]),
        ("Description", record["description"]),
        ("Files changed", "\n".join(record["files"] or [])),
        ("Interface", record["interface"]),
        ("Patch", patch),
    ]
    return "\n\n".join(f"{name}:\n{text.strip()}" for name, text in fields if (text or "").strip())


def exclusion_reason(
    record: dict, max_record_chars: int, excluded_ids: frozenset[str] = EXCLUDED_IDS
) -> str | None:
    """Return why an instance gets no king and no challenger; None when it does.

    `max_record_chars` is chain.toml's [generate] max_record_chars.
    """
    if record["instance_id"] in excluded_ids:
        return "on the list of excluded instances"
    if record_chars(record) > max_record_chars:
        limit = f"over {max_record_chars:,} characters"
        return f"PR record too large for the challenger's prompt ({limit})"
    return None


# ---------------------------------------------------------------------------------------- answers

ANSWER_KEYS = ("instance_id", "king", "challenger", "assistant", "messages")


def answer_folders(root: Path | str = ".") -> list[Path]:
    """Return the folders answer_0, answer_1, ... that exist, in numeric order."""
    found = []
    for path in Path(root).glob("answer_*"):
        number = path.name.removeprefix("answer_")
        if number.isascii() and number.isdigit() and path.is_dir():
            found.append(path)
    return sorted(found, key=lambda path: int(path.name.removeprefix("answer_")))


def answer_files(shard: tuple[int, int] | None = None) -> dict[str, Path]:
    """Return the answer file of each stem in natural order; of several see `first_filled`.

    `shard` (I, N) takes every N-th turn by a hash of its stem.
    """
    found: dict[str, list[Path]] = {}
    for folder in answer_folders():
        for path in turn_files(folder):
            found.setdefault(path.stem, []).append(path)
    stems = sorted(found, key=natural_key)
    return {stem: first_filled(found[stem]) for stem in stems if in_shard(stem, shard)}


def first_filled(paths: list[Path]) -> Path:
    """Return the first of a turn's answer files that has its challenger, else the first.

    A reply that was paid for counts in whichever folder it lies.
    """
    if len(paths) > 1:
        for path in paths:
            try:
                if read_answer(path)["challenger"]:
                    return path
            except BadFile:
                continue  # whoever reads it next says so
    return paths[0]


def read_answer(path: Path) -> dict:
    """Return the answer at `path`; `meta` and its sides are objects, texts are never null.

    Raises BadFile for a torn file or one that king.py and ch.py did not write.
    """
    answer = read_json(path, ANSWER_KEYS)
    if not is_safe_name(path.stem):
        raise BadFile(path, "a name that no stage of this pipeline gives")
    if not isinstance(answer["instance_id"], str):
        raise BadFile(path, "key 'instance_id': expected text")
    for side in SIDES:
        if answer[side] is None:  # older versions wrote null for "not yet"
            answer[side] = ""
        if not isinstance(answer[side], str):
            raise BadFile(path, f"key {side!r}: expected text, found {type(answer[side]).__name__}")
    problem = chat_problem(answer["messages"])
    if problem:
        raise BadFile(path, problem)
    meta = answer.get("meta")
    answer["meta"] = meta if isinstance(meta, dict) else {}
    for side in ("king", "challenger"):
        if not isinstance(answer["meta"].get(side), dict):
            answer["meta"][side] = {}
    return answer


def in_shard(stem: str, shard: tuple[int, int] | None) -> bool:
    """Tell whether shard (I, N) holds this turn, by a hash of its stem."""
    return shard is None or crc32(stem.encode("utf-8", "surrogateescape")) % shard[1] == shard[0]


def chat_digest(messages: list[dict]) -> str:
    """Return a digest of a chat: every role and content."""
    parts = []
    for message in messages:
        parts += [message["role"], message["content"]]
    return digest(*parts)


def text_digests(answer: dict) -> dict[str, str]:
    """Return a digest of the chat and of each reply, as score files keep them in `sha`."""
    sides = {side: digest(answer[side] or "") for side in SIDES}
    return {"chat": chat_digest(answer["messages"]), **sides}


# ----------------------------------------------------------------------------------------- scores

VERDICT_KEYS = frozenset({"key", "judge", "order", "calls", "reason", "usage", "cost_usd"})
SCORE_KEYS = (
    "stem", "instance_id", "repo", "mode", "points", "max_points", "parsed", "status", "metrics",
    "by_judge", "reason", "flags", "sha", "verdicts",
)  # fmt: skip


def read_score(path: Path) -> dict:
    """Return the score file at `path`; each verdict has a `look`.

    Raises FileNotFoundError, and BadFile for what validate.py does not write.
    """
    score = read_json(path, SCORE_KEYS)
    if score["stem"] != path.stem:
        raise BadFile(path, f"holds the score of {score['stem']!r}")
    problem = score_problem(score)
    if problem:
        raise BadFile(path, problem)
    for verdict in score["verdicts"]:
        verdict.setdefault("look", 1)
    return score


def score_problem(score: dict) -> str | None:
    """Return what is wrong in a score file, in words; None when nothing is."""
    for key, kind in (("instance_id", str), ("repo", str), ("sha", dict), ("flags", list)):
        if not isinstance(score[key], kind):
            return f"key {key!r}: expected what validate.py writes"
    if score["mode"] not in OPPONENT:
        return "key 'mode': expected 1 or 2"
    if score["status"] not in [status.value for status in Status]:
        return f"key 'status': {score['status']!r} is no status"
    if not score["sha"].keys() >= {"chat", *SIDES}:
        return "key 'sha': expected a digest of the chat and of each reply"
    if not isinstance(score["verdicts"], list) or not all(map(is_verdict, score["verdicts"])):
        return "key 'verdicts': expected those that validate.py writes"
    if score["parsed"] != (score["status"] == Status.PARSED):
        return "keys 'parsed' and 'status' contradict each other"
    if score["status"] not in (Status.PARSED, Status.STOPPED):
        return None
    points = score["points"]
    most = score["max_points"]
    if not (type(points) is type(most) is int and 0 <= points <= most and most):
        return f"points {points!r} of {most!r}: expected whole numbers"
    told = score.get("score")
    if not is_number(told) or abs(told - 100 * points / most) > 1e-6:
        return f"score {told!r} is not 100 * points / max_points ({points}/{most})"
    bounds = score.get("bounds")
    if score["status"] == Status.STOPPED and not (
        isinstance(bounds, list) and len(bounds) == 2 and all(map(is_number, bounds))
    ):
        return "key 'bounds': expected the lowest and the highest score that is still possible"
    for key in ("metrics", "by_judge"):
        table = score[key]
        if not isinstance(table, dict):
            return f"key {key!r}: expected an object of numbers"
        if not all(value is None or is_number(value) for value in table.values()):
            return f"key {key!r}: expected an object of numbers"
    return None


def is_verdict(verdict: object) -> bool:
    """Tell whether this is a verdict as validate.py stores it."""
    if not isinstance(verdict, dict) or not verdict.keys() >= VERDICT_KEYS:
        return False
    for key in ("key", "judge", "order", "reason"):
        if not isinstance(verdict[key], str):
            return False
    for usage in (verdict["usage"], verdict.get("usage_all_tries")):
        counts = usage or {}
        if not isinstance(counts, dict) or not all(type(one) is int for one in counts.values()):
            return False
    if verdict["cost_usd"] is not None and not is_number(verdict["cost_usd"]):
        return False
    calls = verdict["calls"]
    if calls is None:  # the judge's answer could not be read
        return True
    if verdict.get("look") == 3:  # the reader's test: a finding, not five calls
        return isinstance(calls, dict)
    if not isinstance(calls, dict) or calls.keys() != set(METRICS):
        return False
    return all(type(call) is int and call in (0, 1, 2) for call in calls.values())


def is_number(value: object) -> bool:
    """Tell whether this is a finite number (true and false are none)."""
    return type(value) in (int, float) and math.isfinite(value)


def half_points(verdict: dict | None) -> list[int]:
    """Return the challenger's half-points by metric: win 2, draw 1, loss 0; -1 where unread."""
    if verdict is None or verdict["calls"] is None:
        return [-1] * len(METRICS)
    if verdict["order"] == "challenger-first":
        worth = {0: 1, 1: 2, 2: 0}
    else:
        worth = {0: 1, 1: 0, 2: 2}
    return [worth[verdict["calls"][metric]] for metric in METRICS]


def panel_points(verdicts: dict[tuple[str, str], dict], judges: list[str]) -> list:
    """Return half-points by judge, order and metric of the verdicts by (judge, order)."""
    return [[half_points(verdicts.get((name, order))) for order in ORDERS] for name in judges]


def points_of(identical: bool, counted: dict[tuple[str, str], dict], names: list[str]) -> list:
    """Return half-points by judge, order and metric; identical replies draw everywhere."""
    if identical:
        return [[[1] * len(METRICS) for _ in ORDERS] for _ in names]
    return panel_points(counted, names)


def turn_score(points: list, judges: list[str], scored: bool = True) -> dict:
    """Return points, max_points, score, metrics and by_judge of `panel_points`.

    Scores are 0-100: the challenger's share of the half-points of the verdicts that could be read,
    divided last so that 80 is 80. A judge has a score when both its orders were read. With `scored`
    false all but by_judge is null, and max_points that of the full panel.
    """
    by_judge: dict[str, float | None] = {}
    for name, orders in zip(judges, points):
        calls = [half for order in orders for half in order]
        by_judge[name] = 100 * sum(calls) / (2 * len(calls)) if min(calls) >= 0 else None
    verdicts = [order for orders in points for order in orders]
    read = [order for order in verdicts if min(order) >= 0]
    if not scored or not read:
        return {
            "points": None, "max_points": 2 * len(METRICS) * len(verdicts), "score": None,
            "metrics": None, "by_judge": by_judge,
        }  # fmt: skip
    won = sum(sum(order) for order in read)
    most = 2 * len(METRICS) * len(read)
    metrics = {}
    for place, metric in enumerate(METRICS):
        metrics[metric] = 100 * sum(order[place] for order in read) / (2 * len(read))
    return {
        "points": won, "max_points": most, "score": 100 * won / most, "metrics": metrics,
        "by_judge": by_judge,
    }  # fmt: skip


def score_bounds(points: list) -> list[float]:
    """Return the lowest and the highest score that the verdicts not read yet leave open."""
    verdicts = [order for orders in points for order in orders]
    most = 2 * len(METRICS) * len(verdicts)
    won = sum(sum(order) for order in verdicts if min(order) >= 0)
    left = 2 * len(METRICS) * sum(min(order) < 0 for order in verdicts)
    return [100 * won / most, 100 * (won + left) / most]


def bucket(score: dict, held_back: str = "") -> tuple[str | None, str]:
    """Return where a turn belongs (final, refined, defeat, or None while it has no score) and why.

    The second look's score decides where there is one. `held_back`, or the score file's own, says
    why a turn must not reach final/ whatever it scored; it then lies in refined/. Compared in whole
    numbers, so that 80 is 80.
    """
    if score["status"] not in (Status.PARSED, Status.STOPPED):
        return None, f"no score: {score['status']}"
    points = score["points"]
    most = score["max_points"]
    if score.get("points_confirmed") is not None:
        points = score["points_confirmed"]
        most = score["max_points_confirmed"]
    held_back = held_back or score.get("held_back") or ""
    if 100 * points < DEFEAT_MIN * most:
        return "defeat", f"below {DEFEAT_MIN} points"
    if 100 * points < FINAL_MIN * most:
        return "refined", f"below {FINAL_MIN} points"
    if held_back:
        return "refined", f"held back from final/: {held_back}"
    return "final", f"{FINAL_MIN} points or more"


def read_duel() -> dict | None:
    """Return score/_duel.json, None without one. Raises BadFile."""
    path = Path("score", "_duel.json")
    try:
        duel = read_json(path, ("mode", "accepted", "why", "turns"))
    except FileNotFoundError:
        return None
    for key in ("turns", "judges", "config", "metrics", "leave_one_out", "without_generator"):
        if not isinstance(duel.get(key) or {}, dict):
            raise BadFile(path, f"key {key!r}: expected an object")
    return duel
