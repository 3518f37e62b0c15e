"""What the pages speak of: all that a run has left, and the figures that are computed from it."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from common.config import Config
from common.duel.statistics import bootstrap_bounds, cluster_sums
from common.duel.verdicts import is_full
from common.exports import Export
from common.files import BadFile, natural_key, turn_files
from common.page.labels import Agreement, clopper_pearson
from common.page.left_out import LeftOut
from common.page.rows import Row
from common.turns import OPPONENT, SIDES, Status, read_score

# What fixes a turn of each status, in the order in which the stages are to be run.
NEXT_STEP = {
    Status.NO_ANSWER: "put the answer back, or delete its score",
    Status.BROKEN: "the stage of its folder: king.py or validate.py",
    Status.NO_CHALLENGER: "python ch.py",
    Status.NOT_JUDGED: "python validate.py",
    Status.UNFINISHED: "python validate.py",
    Status.STALE: "python validate.py",
    Status.PARSE_FAIL: "python validate.py --retry-failed",
}
RESAMPLES = 2000  # enough for an interval that decides nothing


@dataclass
class Facts:
    """All that the report and the card speak of."""

    rows: list[Row]
    left_out: LeftOut
    duel: dict  # score/_duel.json, empty without one
    plan: dict  # prompt/_plan.json, empty without one
    config: Config
    limit: int | None = None
    export: Export | None = None
    labels: Agreement | None = None  # of the panel with a person; None without labels

    def __post_init__(self):
        self.parsed = [row for row in self.rows if row.status == Status.PARSED]
        self.scored = [row for row in self.rows if row.bucket]  # the stopped ones, too
        self.statuses = Counter(row.status for row in self.rows)
        self.buckets = Counter(row.bucket for row in self.scored)
        self.stops_early = bool((self.duel.get("stop_early") or {}).get("on"))
        # The turns that means rest on: stopping some by their score would lift the others' mean.
        self.base = self.parsed
        if self.stops_early:
            share = self.config.judge.full_share
            self.base = [row for row in self.parsed if is_full(row.stem, share)]
        if self.parsed:
            self.mode = self.parsed[0].mode
        else:
            self.mode = 1 if self.duel.get("mode") == 1 else 2
        self.opponent = SIDES[OPPONENT[self.mode]]
        self.generator = (self.duel.get("config") or {}).get("generator")
        self.judges = list(self.duel.get("judges") or {})
        if not self.judges:
            self.judges = list(dict.fromkeys(name for row in self.parsed for name in row.by_judge))


def verdict_word(figures: dict) -> str:
    """Return the verdict of a duel, or of a part of its panel, in words."""
    if not figures:
        return "no verdict yet"
    words = {True: "accepted", False: "not accepted"}
    return words.get(figures.get("accepted"), "too few to tell")


def stale_reason(facts: Facts) -> str:
    """Return why score/_duel.json is of other scores, or settings, than lie here; or ""."""
    duel = facts.duel
    if not duel or facts.limit:
        return ""
    if facts.statuses[Status.STALE]:
        return f"{facts.statuses[Status.STALE]} of its turns have changed since they were judged"
    others = sum(row.mode != duel["mode"] for row in facts.parsed)
    if others:
        return f"it is of DUEL_MODE={duel['mode']}, {others} of the scores are of the other one"
    for status in (Status.PARSED, Status.STOPPED):
        counted = (duel["turns"] or {}).get(str(status)) or 0
        if counted != facts.statuses[status]:
            return f"it counts {counted} {status} turns, here are {facts.statuses[status]}"
    told = duel.get("mean_score")
    mean = mean_score(facts.base)
    # A parse-fail's readable verdicts are in its mean, and not in ours.
    if told is not None and abs(told - mean) > 0.01 and not facts.statuses[Status.PARSE_FAIL]:
        return f"it gives a mean score of {told:.2f}, here it is {mean:.2f}"
    then = duel.get("config") or {}
    judge = facts.config.judge
    sampling = {model: facts.config.judge_call(model).sampling() for model in judge.models}
    if then.get("judges", sampling) != sampling:
        return "the judges in chain.toml, or their sampling, are not those that were asked"
    if then.get("duel", vars(facts.config.duel)) != vars(facts.config.duel):
        return "[duel] in chain.toml has changed since"
    return ""


def next_command(facts: Facts) -> str:
    """Return what to run next; "" when all is done."""
    for status, command in NEXT_STEP.items():
        if facts.statuses[status] and command.startswith("python"):
            return f"{command}, then python report.py"
    if stale_reason(facts) or not facts.duel:
        return "python validate.py, then python report.py"
    return ""


def failed_items() -> dict[tuple[str, str], list[dict]]:
    """Return what the last run of each stage says it could not do, by stage and kind."""
    found = defaultdict(list)
    for folder in ("prompt", "answer_*", "score"):
        for path in sorted(Path().glob(f"{folder}/_failed*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict):
                    kind = row.get("kind") or row.get("reason") or ""
                    found[str(row.get("stage") or ""), str(kind)].append(row)
    return dict(sorted(found.items()))


# ------------------------------------------------------------------------------------------ scores


def mean_score(rows: list[Row], of: str = "score") -> float:
    """Return the mean score of rows, or of another score of theirs; NaN of none."""
    return fmean(getattr(row, of) for row in rows) if rows else math.nan


def most_disputed(facts: Facts) -> list[Row]:
    """Return the turns on which the judges are apart, the furthest first."""
    apart = [row for row in facts.parsed if row.spread]
    return sorted(apart, key=lambda row: (-row.spread, natural_key(row.stem)))


def means(columns: dict[str, list], rows: list[Row], config: Config) -> dict[str, dict]:
    """Return of each column of values (one a row, or None) its value, interval and turns.

    The interval is over instances; its ends are NaN where there are too few of them for any.
    """
    if not rows:
        return {}
    values = np.array(list(columns.values()), float).T
    counts = (~np.isnan(values)).astype(np.int64)
    instances = np.array([row.instance_id for row in rows])
    sums, sizes = cluster_sums(np.nan_to_num(values), counts, instances)
    alpha = max(config.duel.alpha, 1 / RESAMPLES)
    bounds = bootstrap_bounds(sums, sizes, alpha=alpha, resamples=RESAMPLES, seed=config.duel.seed)
    found = {}
    for place, name in enumerate(columns):
        turns = int(sizes[:, place].sum())
        if turns:
            value = float(sums[:, place].sum()) / turns
            interval = [float(bound[place]) for bound in bounds]
            found[name] = {"value": value, "interval": interval, "turns": turns}
    return found


def control_split(facts: Facts) -> dict[str, dict]:
    """Return the margin of the turns that control/ holds too: `whole` = `prompt` + `record`.

    control/ holds the same turns, the challenger written with the rule and the advice, yet without
    the record: `prompt` is its margin. {} where control/ is not judged. A turn counts where one
    full panel has judged both against one king.
    """
    folder = Path("control", "score")
    if not (folder / "_duel.json").exists():
        return {}
    paths = {path.stem: path for path in turn_files(folder)}
    rows = []
    columns: dict[str, list] = {"whole": [], "prompt": [], "record": []}
    for row in facts.base:
        try:
            score = read_score(paths[row.stem])
        except (KeyError, BadFile):
            continue  # a torn file is mended by validate.py, run in control/
        judged = (score["sha"]["chat"], score["sha"][row.opponent])
        if (
            score["status"] == Status.PARSED
            and score["mode"] == row.mode
            and list(score["by_judge"]) == list(row.by_judge)
            and judged == row.judged_against
        ):
            rows.append(row)
            columns["whole"].append(2 * row.score - 100)
            columns["prompt"].append(2 * score["score"] - 100)
            columns["record"].append(2 * (row.score - score["score"]))
    return means(columns, rows, facts.config)


# ---------------------------------------------------------------------------- models, audit, reader


def dataset(plan: dict) -> dict:
    """Return name, revision and seed of the sample; of a local path only its last part."""
    name = str(plan.get("dataset") or "not known")
    local = name.startswith((".", "/", "~")) or name.count("/") > 1 or "*" in name
    if local or Path(name).exists():
        name = f"local files {Path(name).name}"
    return {
        "name": name,
        "revision": str(plan.get("revision") or "not known"),
        "seed": str(plan.get("seed", "not known")),
    }


def bill(metas: Iterable[dict]) -> tuple[int | None, int | None, str]:
    """Return tokens in, tokens out and cost of what has `usage` and `cost_usd`, of all tries.

    Tokens are None where the provider told none.
    """
    tokens: Counter = Counter()
    costs = []
    for meta in metas:
        usage = meta.get("usage_all_tries") or meta.get("usage")
        for kind in ("prompt_tokens", "completion_tokens"):
            told = usage.get(kind) if isinstance(usage, dict) else None
            tokens[kind] += told if isinstance(told, int) else 0
        costs.append(meta.get("cost_usd"))
    known = [cost for cost in costs if isinstance(cost, (int, float))]
    at_least = "at least " if len(known) < len(costs) else ""
    cost = f"{at_least}{sum(known):,.2f} USD" if known else "not known"
    return tokens["prompt_tokens"] or None, tokens["completion_tokens"] or None, cost


def writers(rows: list[Row], side: str) -> list[str]:
    """Return the models that were asked to write one side, each with who answered for it."""
    metas = [row.meta[side] for row in rows if row.meta.get(side)]
    pairs = [(str(meta.get("model")), str(meta.get("model_answered") or "")) for meta in metas]
    return model_names(pairs)


def model_names(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return each model that was asked, with who else answered in its name; pairs of the two."""
    others = defaultdict(set)
    for asked, answered in pairs:
        others[asked] |= {answered} - {asked, ""}
    names = []
    for asked, answered in others.items():
        note = f" (answered by: {', '.join(sorted(answered))})" if answered else ""
        names.append(asked + note)
    return names


def leak_audit(rows: list[Row], side: str) -> dict | None:
    """Count one side's replies that were audited, those with a hit, and these by kind of leak."""
    audited = [row.leaks[side] for row in rows if side in row.leaks]
    if not audited:
        return None
    kinds: Counter = Counter()
    for hits in audited:
        kinds.update({str(hit.get("kind")) for hit in hits})
    hit = sum(bool(hits) for hits in audited)
    return {"audited": len(audited), "hit": hit, "share": hit / len(audited), "kinds": kinds}


def readers_test(facts: Facts) -> dict | None:
    """Return whom the reader's test named, with 90 % intervals; None where it was not run.

    The opponent cannot have leaked: his rate is the test's false alarm.
    """
    look = facts.duel.get("second_look") or {}
    read = look.get("read")
    if not read:
        return None
    found = {"model": look["reader"], "turns": read}
    for name, side in (("challenger", "challenger"), ("opponent", OPPONENT[facts.mode])):
        named = look["named"].get(side) or 0
        interval = clopper_pearson(named, read)
        found[name] = {"named": named, "share": named / read, "interval": interval}
    return found
