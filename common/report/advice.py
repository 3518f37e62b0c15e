"""What a run's figures advise: what to run next, which judge to drop, and the points to look at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from common.duel.record import FEWEST_READABLE
from common.report.markdown import Markdown
from common.turns import Status

if TYPE_CHECKING:
    from common.report.report_page import Facts

STAGES = ("prompt.py", "king.py", "ch.py", "validate.py", "report.py")  # in order
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

# When a point is raised. Chosen to speak up early: a point asks for a look, no more.
FEW_INSTANCES = 20  # below, intervals over resampled instances are rough
LOW_PARSE_RATE = 0.95
LOW_CONSISTENCY = 0.5  # GPT-4 in MT-Bench: 0.65; a coin among three calls: 0.33
STRONG_POSITION_BIAS = 0.15  # in one order alone, this accepts most duels between equals
# Such a judge gives a turn 45 to 55 points on average: of three, the two others then have to give
# it 92.5 for the 80 of final/.
MOSTLY_DRAWS = 0.9
# Simulated panels of alpha 0.48, 0.31 and 0.15 keep 2, 4 and 9 % of turns that are not worth it.
LOW_AGREEMENT = 0.4
LENGTH_ERRORS = 2  # of the slope by length, from 0
# Standard deviation of log2(length ratio) below which lengths are alike: most lie within a fifth of
# each other, and what a doubling is worth would be guessed from four deviations away.
LENGTHS_ALIKE = 0.25


def verdict_words(duel: dict) -> str:
    """Return a verdict, of the panel or of a part of it, in words."""
    rates = [judge.get("parse_rate") for judge in duel.get("judges", {}).values()]
    is_unread = bool(rates) and not any(rate is None or rate > 0 for rate in rates)
    if is_unread or str(duel.get("why")).startswith(NOT_DECIDED):
        return NOT_DECIDED
    return VERDICT_WORDS[duel.get("accepted")]


def useless_judges(facts: Facts) -> dict[str, float]:
    """Return by name the share of its calls that could be read, of judges of which few could."""
    found = {}
    for name, judge in facts.duel["judges"].items():
        share = judge.get("parse_rate")
        if share is not None and share < FEWEST_READABLE:
            found[name] = share
    return found


def drop_words(facts: Facts) -> str:
    """Return what to do about the judges of facts.drop, in a line for a terminal."""
    if len(facts.drop) == len(facts.duel["judges"]):
        return "hardly any answer could be read: change [judge] models in chain.toml"
    names = ", ".join(facts.drop)
    return f"hardly read: drop {names} from [judge] models in chain.toml, which costs nothing"


def waiting_prompts(facts: Facts) -> list[str]:
    """Return the stems of the prompts that wait for their king."""
    if facts.limit:
        return []
    settled = facts.left_out.stems() | {row.stem for row in facts.rows if row.path}
    return [stem for stem in facts.left_out.instances if stem not in settled]


def next_steps(facts: Facts) -> list[Markdown]:
    """Return the lines to run, from the first stage that lacks something; none where none does."""
    lacking = set(facts.torn)
    if facts.waiting:
        lacking.add("king.py")
    if facts.statuses[Status.NO_CHALLENGER]:
        lacking.add("ch.py")
    unjudged = (Status.NOT_JUDGED, Status.UNFINISHED, Status.STALE)
    if facts.stale or facts.drop or not facts.has_duel or any(map(facts.statuses.get, unjudged)):
        lacking.add("validate.py")
    if not lacking:
        return []
    first = min(map(STAGES.index, lacking))
    return [Markdown(f"python {stage}") for stage in STAGES[first:]]


# -------------------------------------------------------------------------------- points to look at


def points(facts: Facts) -> dict:
    """Return whether to trust the run and what to change: of each point what it is raised by."""
    duel = facts.duel

    doubtful = {name: judge_doubts(facts, name) for name in duel["judges"]}
    deciding = {}
    for name, without in duel["leave_one_out"].items():
        if without.get("accepted") != duel["accepted"]:
            deciding[name] = verdict_words(without)
    leaning = (duel["judges"].get(facts.generator) or {}).get("contrast") or {}
    low, high = leaning.get("interval") or (0, 0)
    by_length = lengths_differ(facts) and duel["equal_length"]
    errors = LENGTH_ERRORS * figure(by_length, "per_doubling_se")
    instances = duel["instances"] or len({row.instance_id for row in facts.judged})
    final = [row for row in facts.parsed if row.bucket == "final"]
    return {
        "doubtful": {name: "; ".join(why) for name, why in doubtful.items() if why},
        "deciding": deciding,
        "leaning": None if low <= 0 <= high else leaning,
        "low_agreement": figure(duel["agreement"], "value") < LOW_AGREEMENT,
        "fails_by_repo": bool(duel["accepted"]) and figure(duel, "lcb_by_repo") <= 0,
        "length_tells": bool(by_length) and abs(by_length["per_doubling"]) > errors,
        "no_benchmarks": not facts.benchmarks,
        "unchecked": facts.unchecked,
        "few_instances": instances if instances < FEW_INSTANCES else 0,
        "leaking": [row for row in final if row.leaks.get("challenger")],
        "held_back": [row for row in facts.judged if row.held_back],
        "far_apart": facts.labels["differences"] if facts.labels else [],
    }


def lengths_differ(facts: Facts) -> bool:
    """Tell whether the replies' lengths differ enough to say what length is worth."""
    ratios = []
    for row in facts.judged:
        if row.opponent_chars:
            ratios.append(math.log2(row.challenger_chars / row.opponent_chars))
    return bool(ratios) and float(np.std(ratios)) >= LENGTHS_ALIKE


def judge_doubts(facts: Facts, name: str) -> list[str]:
    """Return why a judge is to be doubted, each reason in words."""
    judge = facts.duel["judges"][name]
    read = figure(judge, "parse_rate")
    steady = figure(judge, "position_consistency")
    bias = figure(judge, "pull")
    draws = figure(judge, "equal_share")
    why = []
    if read < LOW_PARSE_RATE:
        why.append(f"unreadable: {read:.0%} of its answers could be read")
    if steady < LOW_CONSISTENCY:
        why.append(f"unsteady: {steady:.0%} of its calls were the same in both orders")
    if abs(bias) > STRONG_POSITION_BIAS:
        shown = "second" if bias > 0 else "first"
        why.append(f"drawn to the reply shown {shown}: position bias {bias:+.2f}")
    if draws >= MOSTLY_DRAWS:
        why.append(f'nearly always undecided: {draws:.0%} of its calls are "equal"')
    return why


def figure(of: dict | None, key: str) -> float:
    """Return a figure of the duel; NaN, which no comparison holds for, where there is none."""
    value = (of or {}).get(key)
    return math.nan if value is None else value
