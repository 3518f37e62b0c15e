"""What report.md, the card and the tally say of a run: every figure is made here."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from common.cli import STAGES, steps_from
from common.config import METRICS, Config, Duel
from common.duel.record import FEWEST_READABLE, LOOKS
from common.duel.statistics import bootstrap_bounds, rate_ratio
from common.duel.verdicts import READING
from common.files import BadFile
from common.report import exports, turns_page
from common.report.exports import Export, export_text
from common.report.left_out import LeftOut, dicts
from common.report.markdown import NOTHING, Markdown, fill, written
from common.report.rows import CHARS_PER_TOKEN, Row, per_hundred
from common.turns import BUCKETS, DEFEAT_MIN, FINAL_MIN, OPPONENT, SIDES, Status

CARD = Path("export", "README.md")
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
VERDICT_WORDS = {True: "accepted", False: "not accepted", None: "too few to tell"}
NOT_DECIDED = "not decided"  # as the duel says where no verdict could be read
# What is read of score/_duel.json here, and of each of its judges. Older versions lack some.
DUEL_FIGURES = "accepted why mean_score interval alpha instances agreement kept_again second_look"
DUEL_TABLES = "turns metrics judges leave_one_out config"
JUDGE_FIGURES = "score parse_rate position_consistency pull equal_share"

# When a point is raised. Chosen to speak up early: a point asks for a look, no more.
FEW_INSTANCES = 20  # below, intervals over resampled instances are rough
LOW_PARSE_RATE = 0.95
STEADY = 0.5  # GPT-4 in MT-Bench: 0.65; a coin among three calls: 0.33
STRONG_BIAS = 0.15  # in one order alone, this accepts most duels between equals
# Such a judge gives a turn 45 to 55 points on average: of three, the two others then have to give
# it 92.5 for the 80 of final/.
MOSTLY_DRAWS = 0.9
# Simulated panels of alpha 0.48, 0.31 and 0.15 keep 2, 4 and 9 % of turns that are not worth it.
LOW_AGREEMENT = 0.4
LITTLE_DOUBT = 0.5  # hedges of challengers to a king's


@dataclass
class Facts:
    """All that the report and the card speak of."""

    rows: list[Row]
    counts: Counter  # see rows.count_verdicts_and_costs
    left_out: LeftOut
    duel: dict  # score/_duel.json, empty without one
    plan: dict  # prompt/_plan.json, empty without one
    config: Config
    limit: int | None
    labels: dict  # how far panel and person agree
    torn: set[str]  # the stages that make torn files again
    export: Export

    def __post_init__(self):
        self.parsed = [row for row in self.rows if row.bucket]
        self.judged = [row for row in self.parsed if not row.excluded]  # what the verdict is of
        self.statuses = Counter(row.status for row in self.rows)
        buckets = Counter(row.bucket for row in self.parsed)
        self.buckets = {name: buckets[name] for name in BUCKETS}
        self.bucket_words = ", ".join(f"{name}/ {self.buckets[name]:,}" for name in BUCKETS)
        self.mode = (self.parsed or self.rows)[0].mode
        self.opponent = SIDES[OPPONENT[self.mode]]

        # The verdict.
        self.has_duel = bool(self.duel)
        self.duel = {**dict.fromkeys(DUEL_FIGURES.split()), **self.duel}
        self.duel |= {name: self.duel.get(name) or {} for name in DUEL_TABLES.split()}
        for judge in self.duel["judges"].values():
            for name in JUDGE_FIGURES.split():
                judge[name] = math.nan if judge.get(name) is None else judge[name]
        self.verdict = verdict_words(self.duel) if self.has_duel else "no verdict yet"
        self.stale = stale_reason(self) if self.has_duel and not self.limit else ""
        rates = {name: judge["parse_rate"] for name, judge in self.duel["judges"].items()}
        self.drop = {name: rate for name, rate in rates.items() if rate < FEWEST_READABLE}

        # What to run next: lines from the first stage that lacks something to the last.
        self.next_step = dict(NEXT_STEP)
        if self.drop:
            self.next_step[Status.PARSE_FAIL] = "change the panel, then python validate.py"
        self.unanswered = self.left_out.unanswered(self.rows)
        settled = self.unanswered | {row.stem for row in self.rows if row.path}
        prompts = [] if self.limit else self.left_out.prompts
        self.waiting = [stem for stem in prompts if stem not in settled]  # for their king
        to_run = {step for status, step in self.next_step.items() if self.statuses[status]}
        lacking = self.torn | {name for name in STAGES if f"python {name}" in to_run}
        if self.waiting:
            lacking.add("king.py")
        if self.stale or self.drop or not self.has_duel:
            lacking.add("validate.py")
        steps = steps_from(min(lacking, key=STAGES.index)).splitlines() if lacking else []
        self.steps = [Markdown(step) for step in steps]

        # The sample, who wrote, and what lies in the replies.
        self.dataset = str(self.plan.get("dataset") or NOTHING)
        is_hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", self.dataset)
        if self.dataset != NOTHING and (not is_hub_id or Path(self.dataset).exists()):
            self.dataset = f"local files {Path(self.dataset).name}"  # not its folders' names
        benchmarks = self.plan.get("benchmarks")
        self.benchmarks = dicts(benchmarks.get("lists")) if isinstance(benchmarks, dict) else []
        self.unchecked = [of for of in self.benchmarks if of.get("state") != "checked"]
        self.writers = {}  # by side
        for side in ("king", "challenger"):
            names = (row.models[side] for row in self.rows if side in row.models)
            self.writers[side] = list(dict.fromkeys(names)) or None
        self.spent = {}  # by role and judge: what they took
        for (role, judge, what), figure in self.counts.items():
            self.spent.setdefault((role, judge), Counter())[what] = figure
        self.spent["together", ""] = sum(self.spent.values(), Counter())
        self.audits = {}  # by side
        for side in ("challenger", "chosen", "king"):
            audited = [row.leaks[side] for row in self.rows if side in row.leaks]
            kinds = Counter()
            for hits in audited:
                kinds.update(sorted(set(hits)))
            found = turns_page.share_of(sum(map(bool, audited)), len(audited))
            self.audits[side] = {"audited": len(audited), "kinds": kinds, **found}
        look = {"turns": 0, "read": 0, **(self.duel["second_look"] or {})}
        named = look.get("named") or {}  # by the reader's test
        self.look = {
            **look,
            "challenger": turns_page.share_of(named.get("challenger", 0), look["read"]),
            # Who cannot have leaked: his rate is the test's false alarm.
            "opponent": turns_page.share_of(named.get(OPPONENT[self.mode], 0), look["read"]),
            "calls": self.counts[LOOKS[READING], "", "replies"],  # readable or not
            "kept_before": sum(row.score >= FINAL_MIN for row in self.parsed),
        }
        self.doubt = doubt(self.rows, self.config.duel.alpha)
        self.kinds = Counter(row.made for row in self.rows if row.challenger_chars)
        self.compared = compare_kinds(self.parsed, self.config.duel)


def verdict_words(duel: dict) -> str:
    """Return a verdict, of the panel or of a part of it, in words."""
    if str(duel.get("why")).startswith(NOT_DECIDED):
        return NOT_DECIDED
    return VERDICT_WORDS[duel.get("accepted")]


def stale_reason(facts: Facts) -> str:
    """Return why score/_duel.json is of other scores, or settings, than lie here; or ""."""
    duel = facts.duel
    config = facts.config
    gate = vars(config.duel)
    panel = {model: config.judge_call(model).sampling() for model in config.judge.models}
    mean = duel["mean_score"]
    here = np.mean([row.score for row in facts.judged]) if facts.judged else math.nan
    # A parse-fail's readable verdicts are in its mean, and not in ours.
    can_tell = mean is not None and not facts.statuses[Status.PARSE_FAIL]
    is_of_another = {
        "DUEL_MODE": any(row.mode != duel["mode"] for row in facts.judged),
        "number of parsed turns": duel["turns"].get("parsed", 0) != len(facts.judged),
        "panel in chain.toml": duel["config"].get("judges", panel) != panel,
        "[duel] in chain.toml": duel["config"].get("duel", gate) != gate,
        f"mean score (here it is {here:.2f})": can_tell and abs(mean - here) > 0.01,
    }
    return next((f"it is of another {what}" for what, holds in is_of_another.items() if holds), "")


def doubt(rows: list[Row], alpha: float) -> dict | None:
    """Return hedges a hundred words of THOUGHT by side, and challengers' over kings'."""
    rows = [row for row in rows if row.doubt]
    if not rows:
        return None
    counts = {side: np.array([row.doubt[side] for row in rows], float) for side in SIDES.values()}
    both = np.hstack([counts["challenger"], counts["king"]])
    found = rate_ratio(both, [row.instance_id for row in rows], alpha) or {}
    ratio = found.get("ratio", math.nan)
    rates = {side: per_hundred(*of_side.sum(axis=0)) for side, of_side in counts.items()}
    return {"rates": rates, "ratio": ratio, "to_king": bounded(ratio, found.get("interval"), ".2f")}


def compare_kinds(rows: list[Row], duel: Duel) -> dict[str, dict]:
    """Return what each kind of challenger came to, intervals over instances; {} for one kind."""
    kinds = sorted({row.made for row in rows}, reverse=True)
    compared = {}
    for kind in kinds if len(kinds) > 1 else ():
        turns = [row for row in rows if row.made == kind]
        side = "chosen" if kind == "chosen" else "challenger"
        values = []
        for row in turns:
            leaks = bool(row.leaks[side]) if side in row.leaks else math.nan
            values.append((row.bucket == "final", row.score, leaks))
        instances = [row.instance_id for row in turns]
        settings = {"alpha": duel.alpha, "resamples": duel.resamples, "seed": duel.seed}
        bounds = bootstrap_bounds(np.array(values, float), instances, **settings)
        figures = {"turns": len(turns), "doubt": doubt(turns, duel.alpha)}
        for name, form, of in zip(("kept", "score", "leaks"), ("%", ".1f", "%"), bounds):
            figures[name] = bounded(of.mean, [of.lower, of.upper], form)
        compared[kind] = figures
    return compared


def bounded(value: float, interval: list[float] | None, form: str) -> Markdown:
    """Return a figure with its interval, where it has one, in brackets."""
    limits = written(interval, form)
    return Markdown(written(value, form) + (f" ({limits})" if limits != NOTHING else ""))


def points(facts: Facts) -> dict:
    """Return whether to trust the run and what to change: of each point what it is raised by."""
    duel = facts.duel
    doubtful = {}
    for name, judge in duel["judges"].items():
        read = judge["parse_rate"]
        steady = judge["position_consistency"]
        bias = judge["pull"]
        draws = judge["equal_share"]
        shown = "second" if bias > 0 else "first"
        reasons = {
            f"unreadable: {read:.0%} of its answers could be read": read < LOW_PARSE_RATE,
            f"unsteady: {steady:.0%} of its calls were the same in both orders": steady < STEADY,
            f"drawn to the reply shown {shown}: position bias {bias:+.2f}": abs(bias) > STRONG_BIAS,
            f'nearly always undecided: {draws:.0%} of its calls are "equal"': draws >= MOSTLY_DRAWS,
        }
        if any(reasons.values()):
            doubtful[name] = "; ".join(words for words, holds in reasons.items() if holds)
    deciding = {}
    for name, without in duel["leave_one_out"].items():
        if without.get("accepted") != duel["accepted"]:
            deciding[name] = verdict_words(without)
    alpha = (duel["agreement"] or {}).get("value")
    instances = duel["instances"] or len({row.instance_id for row in facts.judged})
    return {
        "doubtful": doubtful,
        "deciding": deciding,
        "low_agreement": alpha is not None and alpha < LOW_AGREEMENT,
        "few_instances": instances if instances < FEW_INSTANCES else 0,
        "no_benchmarks": not facts.benchmarks,
        "unchecked": facts.unchecked,
        "held_back": [row for row in facts.judged if row.held_back],
        "far_apart": facts.labels["differences"],
        "little_doubt": bool(facts.doubt) and facts.doubt["ratio"] < LITTLE_DOUBT,
    }


def report_page(facts: Facts) -> str:
    """Return report.md, for a reader in a hurry."""
    listed = facts.rows[: turns_page.MOST_TURNS]
    text = fill(
        "report.md",
        facts=facts,
        duel=facts.duel,
        points=points(facts),
        final_min=FINAL_MIN,
        defeat_min=DEFEAT_MIN,
        metrics=METRICS,
        verdict_words=verdict_words,
        why=str(facts.duel["why"] or "").removeprefix(f"{facts.verdict}: "),
        licence=stated_licence()["license"] if facts.export.rows else "",
        export="" if facts.limit else export_text(facts.export),
        histogram=histogram([row.deciding_score for row in facts.parsed]),
        listed=sorted(listed, key=lambda row: -row.deciding_score if row.bucket else 1),
    )
    return f"{text}\n"


def histogram(scores: list[float]) -> Markdown:
    """Return the number of turns by range of the score that decides their bucket."""
    scores = [round(score, 9) for score in scores]  # 57.99999999999999 is 58
    edges = [*sorted({*range(0, 100, 10), DEFEAT_MIN, FINAL_MIN}), 100]
    counts, _ = np.histogram(scores, edges)  # the last range holds its upper end
    marks = {FINAL_MIN: "final from here up", DEFEAT_MIN: "refined from here up, defeat below"}
    lines = ["```text", "score        turns"]
    for low, high, n in reversed(list(zip(edges, edges[1:], counts))):
        bar = "█" * math.ceil(30 * n / max(1, *counts))  # a single turn shows, too
        lines.append(f"{low:>3} to {high:<3}  {n:>6}  {bar:<30}  {marks.get(low, '')}".rstrip())
    return Markdown("\n".join([*lines, "```"]))


def page_lines(facts: Facts) -> list[str]:
    """Return what turns.html says of the run."""
    lines = [str(facts.duel["why"])] if facts.has_duel else []
    lines.append(facts.bucket_words)
    more = sum(row.challenger_chars > 0 for row in facts.rows[turns_page.MOST_TURNS :])
    if more:
        lines.append(
            f"Here are the first {turns_page.MOST_TURNS:,} turns; turns.csv lists {more:,} more."
        )
    return lines


def dataset_card(facts: Facts) -> str:
    """Return the card of what facts.export says. Raises BadFile if the card there is torn."""
    export = facts.export
    front = {
        **stated_licence(),
        "pretty_name": "Preferred single turns of a coding agent",
        "task_categories": ["text-generation"],
        "tags": ["code", "agent", "software-engineering", "sft", "dpo"],
    }
    for config in exports.CONFIGS:
        names = {split: f"{config}-{split}.jsonl" for split in exports.SPLITS}
        parts = [{"split": split, "path": name} for split, name in names.items()]
        parts = [part for part in parts if Path("export", part["path"]).exists()]
        default = {"default": True} if config == "sft" else {}
        if parts:
            configs = front.setdefault("configs", [])
            configs.append({"config_name": config, **default, "data_files": parts})
    longest_reply = max((row.challenger_chars for row in export.rows), default=0)
    text = fill(
        "card.md",
        facts=facts,
        duel=facts.duel,
        export=export,
        exports=exports,
        final_min=FINAL_MIN,
        defeat_min=DEFEAT_MIN,
        metrics=METRICS,
        licences=Counter(row.license for row in export.rows),
        reply_tokens=round(longest_reply / CHARS_PER_TOKEN),
    )
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n{text}\n"


def stated_licence() -> dict:
    """Return what the user wrote into the card there under license, license_name, license_link."""
    text = CARD.read_text(encoding="utf-8-sig", errors="replace") if CARD.exists() else ""
    try:
        front = yaml.safe_load(text.split("\n---")[0]) if text.startswith("---") else {}
    except (yaml.YAMLError, ValueError) as error:  # the latter of an impossible date
        problem = f"cannot read its front matter ({str(error).splitlines()[0]})"
        raise BadFile(CARD, f"{problem}: mend its first lines, or delete the file") from None
    front = front if isinstance(front, dict) else {}
    stated = {key: front[key] for key in front if str(key).startswith("license") and front[key]}
    return {"license": "unknown", **stated}
