"""What the pages speak of: all that a run has left, and the figures that report and card share."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from common.config import Config
from common.duel.statistics import bootstrap_lcb
from common.files import BadFile
from common.report.exports import MIN_REPOS_TO_VALIDATE, Export
from common.report.labels import clopper_pearson
from common.report.left_out import LeftOut
from common.report.markdown import Markdown, fill, written
from common.report.rows import CHARS_PER_TOKEN, Row
from common.turns import BUCKETS, OPPONENT, SIDES, Status, read_score

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
MAX_LENGTHS = (1024, 2048, 4096, 8192, 16_384, 32_768)  # tokens
SMALL_SPLIT = 30  # rows
RESAMPLES = 1000  # enough for an interval that decides nothing


@dataclass
class Facts:
    """All that the report and the card speak of."""

    rows: list[Row]
    left_out: LeftOut
    duel: dict  # score/_duel.json, empty without one
    plan: dict  # prompt/_plan.json, empty without one
    config: Config
    limit: int | None
    labels: dict | None  # how far panel and person agree; None without labels
    export: Export | None = None

    def __post_init__(self):
        self.parsed = [row for row in self.rows if row.status == Status.PARSED]
        self.scored = [row for row in self.rows if row.bucket]  # the stopped ones, too
        self.statuses = Counter(row.status for row in self.rows)
        buckets = Counter(row.bucket for row in self.scored)
        self.buckets = {name: buckets[name] for name in BUCKETS}
        self.shares = {name: buckets[name] / (len(self.scored) or 1) for name in BUCKETS}
        self.base = self.parsed
        self.mode = (self.parsed or self.rows)[0].mode
        self.opponent = SIDES[OPPONENT[self.mode]]
        self.generator = (self.duel.get("config") or {}).get("generator")
        self.judges = list(self.duel.get("judges") or {})
        self.interval = self.duel.get("interval") or [None]
        self.verdict = verdict_word(self.duel)
        self.stale = stale_reason(self) if self.duel and not self.limit else ""
        steps = [step for status, step in NEXT_STEP.items() if self.statuses[status]]
        if self.stale or not self.duel:
            steps.append("python validate.py")
        steps = [f"{step}, then python report.py" for step in steps if step.startswith("python")]
        self.command = Markdown(steps[0] if steps else "")  # what to run next
        self.sample = {}
        for name in ("dataset", "revision", "seed"):
            told = self.plan.get(name)
            self.sample[name] = "not known" if told in (None, "") else str(told)
        path = self.sample["dataset"]
        local = path.startswith((".", "/", "~")) or path.count("/") > 1 or "*" in path
        if local or Path(path).exists():  # its folders are nobody's business
            self.sample["dataset"] = f"local files {Path(path).name}"
        self.challenger_audit = leak_audit(self.rows, "challenger")
        self.king_audit = leak_audit(self.rows, "king")
        self.reader = readers_test(self)


def verdict_word(duel: dict) -> str:
    """Return the verdict of a duel, or of a part of its panel, in words."""
    if not duel:
        return "no verdict yet"
    words = {True: "accepted", False: "not accepted"}
    return words.get(duel.get("accepted"), "too few to tell")


def stale_reason(facts: Facts) -> str:
    """Return why score/_duel.json is of other scores, or settings, than lie here; or ""."""
    duel = facts.duel
    turns = duel["turns"] or {}
    then = duel.get("config") or {}
    panel = facts.config.judge.models
    sampling = {model: facts.config.judge_call(model).sampling() for model in panel}
    for what, told, here in (
        ("DUEL_MODE", True, all(row.mode == duel["mode"] for row in facts.parsed)),
        ("number of parsed turns", turns.get("parsed", 0), facts.statuses[Status.PARSED]),
        ("panel in chain.toml", then.get("judges"), sampling),
        ("[duel] in chain.toml", then.get("duel"), vars(facts.config.duel)),
    ):
        if told is not None and told != here:
            return f"it is of another {what}"
    # A parse-fail's readable verdicts are in its mean, and not in ours.
    mean = duel.get("mean_score")
    here = mean_score(facts.base)
    if mean is not None and not facts.statuses[Status.PARSE_FAIL] and abs(mean - here) > 0.01:
        return f"it gives a mean score of {mean:.2f}, here it is {here:.2f}"
    return ""


def mean_score(rows: list[Row], of: str = "score") -> float:
    """Return the mean score of rows, or of another score of theirs; NaN of none."""
    return fmean(getattr(row, of) for row in rows) if rows else math.nan


def leak_audit(rows: list[Row], side: str) -> dict | None:
    """Count one side's replies that were audited, those with a hit, and these by kind of leak."""
    audited = [row.leaks[side] for row in rows if side in row.leaks]
    if not audited:
        return None
    kinds = Counter(kind for hits in audited for kind in {str(hit.get("kind")) for hit in hits})
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


def writers(rows: list[Row], side: str) -> list[str]:
    """Return the models that were asked to write one side, each with who answered for it."""
    metas = [row.meta[side] for row in rows if row.meta.get(side)]
    answered = defaultdict(set)
    for meta in metas:
        answered[str(meta.get("model"))].add(str(meta.get("model_answered") or ""))
    return [asked + who_answered(asked, others) for asked, others in answered.items()]


def who_answered(asked: str, answered: set[str]) -> str:
    """Return, in brackets, who else answered in a model's name; "" where nobody did."""
    others = ", ".join(sorted(answered - {asked, ""}))
    return f" (answered by: {others})" if others else ""


def export_text(export: Export) -> Markdown:
    """Return in a few sentences what export/ holds, for report, card and tally."""
    rows = export.all_rows
    lengths = [row.prompt_tokens for row in rows] or [0]
    median, ninetieth, most = np.percentile(lengths, (50, 90, 100), method="nearest").tolist()
    splits = []
    small = {}
    for split, part in export.rows.items():
        repos = len({row.repo for row in part})
        splits.append(f"{split} {written(len(part), 'row')} of {written(repos, 'repo')}")
        small[split] = 0 < len(part) < SMALL_SPLIT or repos == 1
    return fill(
        "export.md",
        export=export,
        rows=len(rows),
        splits=splits,
        empty=[split for split, part in export.rows.items() if rows and not part],
        least_repos=MIN_REPOS_TO_VALIDATE,
        small=small,
        median=median,
        ninetieth=ninetieth,
        most=most,
        guessed=sum(row.tokens_from == "guess" for row in rows),
        chars_per_token=CHARS_PER_TOKEN,
        lost={f"{length:,}:": export.lost_at(length) for length in MAX_LENGTHS},
    )


def mean_of(pairs: list[tuple[Row, float | None]], config: Config) -> dict | None:
    """Return mean, turns and interval of one value a row, None left out; None without any value.

    The interval is over instances; its ends are infinite where there are too few of them for any.
    """
    known = [(row.instance_id, value) for row, value in pairs if value is not None]
    if not known:
        return None
    instances, values = zip(*known)
    values = np.array(values, float)
    alpha = max(config.duel.alpha, 1 / RESAMPLES)
    settings = {"alpha": alpha, "resamples": RESAMPLES, "seed": config.duel.seed}
    mean, low, _ = bootstrap_lcb(values, instances, **settings)
    _, minus_high, _ = bootstrap_lcb(-values, instances, **settings)
    return {"mean": mean, "interval": [low, -minus_high], "turns": len(values)}


def control_split(facts: Facts) -> dict[str, dict]:
    """Return the margin of the turns that control/ holds too: `whole` = `prompt` + `record`.

    control/ holds the same turns, the challenger written with the rule and the advice, yet without
    the record: `prompt` is its margin. {} where control/ is not judged. A turn counts where one
    full panel has judged both against one king.
    """
    folder = Path("control", "score")
    if not (folder / "_duel.json").exists():
        return {}
    splits: dict[str, list] = {"whole": [], "prompt": [], "record": []}
    for row in facts.base:
        try:
            score = read_score(folder / f"{row.stem}.json")
        except (FileNotFoundError, BadFile):
            continue  # a torn file is mended by validate.py, run in control/
        same_texts = all(score["sha"][text] == row.sha[text] for text in ("chat", row.opponent))
        judged = (score["status"], score["mode"], list(score["by_judge"]))
        if same_texts and judged == (Status.PARSED, row.mode, list(row.by_judge)):
            splits["whole"].append((row, 2 * row.score - 100))
            splits["prompt"].append((row, 2 * score["score"] - 100))
            splits["record"].append((row, 2 * (row.score - score["score"])))
    return {name: mean_of(pairs, facts.config) for name, pairs in splits.items() if pairs}


def bill(metas: list[dict]) -> dict:
    """Return tokens in, tokens out and cost of what has `usage` and `cost_usd`, of all tries."""
    tokens: Counter = Counter()
    for meta in metas:
        usage = meta.get("usage_all_tries") or meta.get("usage")
        for kind in ("prompt_tokens", "completion_tokens"):
            told = usage.get(kind) if isinstance(usage, dict) else None
            tokens[kind] += told if isinstance(told, int) else 0
    costs = [meta.get("cost_usd") for meta in metas]
    known = [cost for cost in costs if isinstance(cost, (int, float))]
    at_least = "at least " if len(known) < len(costs) else ""
    return {
        "tokens_in": tokens["prompt_tokens"] or None,  # the provider told none
        "tokens_out": tokens["completion_tokens"] or None,
        "cost": f"{at_least}{sum(known):,.2f} USD" if known else "not known",
    }
