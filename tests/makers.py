"""One maker of each record that passes between the stages, as the stages write them.

A maker returns the record; `put` writes it, and `make_sample`, `make_run` write a whole folder.
Further keyword arguments replace keys of the record.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from common.config import METRICS
from common.files import digest
from common.turns import ORDERS, PROMPTS_PER_FILE, text_digests, turn_score

REPLY = "THOUGHT: I list the files to see what there is.\n\n```bash\nls -la\n```"
JUDGES = ("maker-a/judge-1", "maker-b/judge-2", "maker-c/judge-3")
MOST = 2 * len(METRICS) * len(ORDERS) * len(JUDGES)  # half-points of a turn: two a call
PATCH = """\
diff --git a/gears/ratio.py b/gears/ratio.py
--- a/gears/ratio.py
+++ b/gears/ratio.py
@@ -10,3 +10,3 @@ def tally(parts):
-    return len(parts)
+    return len(set(parts)) + zebra_offset_{number}
"""

_COMMANDS = (
    "ls -la src/{word}",
    "grep -rn '{word}' src/",
    "cat src/{word}.py",
    "sed -n '1,80p' src/{word}.py",
    "sed -i 's/{word}/{other}/' src/{word}.py",
    "git diff --stat {word}",
    "find . -name '*{word}*'",
)
_WORDS = (
    "parser lexer token stream buffer header cookie session router cache index query cursor schema "
    "field filter socket thread signal handler logger format locale encoder decoder matrix vector "
    "tensor layer kernel"
).split()


def put(path: Path, value: object) -> None:
    """Write `value` as JSON, with the folders on the way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def get(path: Path) -> dict:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


# ----------------------------------------------------------------------------- prompts and records


def make_reply(chance: random.Random, words: int = 40) -> str:
    """Return a reply in the agent's form; the same chance gives the same reply."""
    said = " ".join(chance.choice(_WORDS) for _ in range(words))
    command = chance.choice(_COMMANDS)
    command = command.format(word=chance.choice(_WORDS), other=chance.choice(_WORDS))
    return f"THOUGHT: I look at {said}.\n\n```bash\n{command}\n```"


def make_chat(number: int, chars: int = 400, steps: int = 0) -> list[dict]:
    """Return a chat with `steps` turns, some `chars` characters a message; no two are alike."""
    chance = random.Random(number)
    form = "You fix issues in a repository. One ```bash block with one command, after a THOUGHT."
    issue = f"Issue {number}: the widget count is wrong. " + "Details follow. " * (chars // 17)
    messages = [{"role": "system", "content": form}, {"role": "user", "content": issue}]
    for step in range(steps):
        seen = "Observation: " + f"line {step} of output\n" * (chars // 17)
        messages.append({"role": "assistant", "content": make_reply(chance)})
        messages.append({"role": "user", "content": seen})
    return messages


def make_prompt(
    number: int, chars: int = 400, steps: int = 0, repo: str = "acme/widgets", **fields
) -> dict:
    """Return one entry of prompt/prompts_*.json."""
    messages = make_chat(number, chars, steps)
    prompt = {
        "instance_id": f"{repo.replace('/', '__')}-{number}",
        "repo": repo,
        "messages": messages,
        "assistant": f"THOUGHT: I look around ({number}).\n\n```bash\nls\n```",
        "source": {"file": "data/train-0.parquet", "row": number, "turn": len(messages)},
    }
    return {**prompt, **fields}


def make_record(
    number: int, patch: str | None = None, repo: str = "acme/widgets", **fields
) -> dict:
    """Return commit/<instance_id>.json."""
    record = {
        "instance_id": f"{repo.replace('/', '__')}-{number}",
        "repo": repo,
        "base_commit": "0" * 40,
        "issue": f"Issue {number}: the widget count is wrong.",
        "description": "Counts each widget once.",
        "files": ["gears/ratio.py"],
        "patch": patch or PATCH.format(number=number),
        "test_patch": "",
        "interface": "",
        "language": "python",
        "created_at": "2024-01-01",
    }
    return {**record, **fields}


# ------------------------------------------------------------------------------ answers and scores


def make_call_meta(**fields) -> dict:
    """Return what a stage keeps of one call beside its text."""
    meta = {
        "model": "maker-a/writer",
        "model_answered": "maker-a/writer",
        "sampling": {"temperature": 1.0},
        "usage": {
            "prompt_tokens": 900,
            "completion_tokens": 80,
            "reasoning_tokens": 10,
            "cached_tokens": 0,
        },
        "cost_usd": 0.001,
        "finish_reason": "stop",
        "time_s": 1.5,
        "tries": 1,
        "asked_at": "2026-01-02T03:04:05+00:00",
        "invocation_id": None,
    }
    return {**meta, **fields}


def make_answer(number: int, prompt: dict | None = None, **fields) -> dict:
    """Return answer_0/<stem>.json with both sides written; a `challenger` of "" is not yet."""
    chance = random.Random(number)
    prompt = prompt or make_prompt(number)
    side = make_call_meta(prompt_version="1", leaks={"version": 0, "hits": []})
    hits = [] if number % 10 else [{"kind": "path", "text": "a/b.py", "why": "unseen"}]
    answer = {
        "instance_id": prompt["instance_id"],
        "king": make_reply(chance),
        "challenger": make_reply(chance, 50),
        "assistant": prompt["assistant"],
        "messages": prompt["messages"],
        "meta": {
            "repo": prompt["repo"],
            "source": prompt["source"],
            "king": {**side, "leaks": {"version": 0, "hits": hits}},
            "challenger": {**side, "rejected": {"path": number % 3}},
        },
    }
    return {**answer, **fields}


def at_score(percent: float, judges=JUDGES) -> int:
    """Return the half-points of a turn that make this score, or the nearest one below."""
    return int(percent * 2 * len(METRICS) * len(ORDERS) * len(judges) / 100)


def verdict_calls(winner: str = "draw", order: str = ORDERS[0]) -> dict[str, int]:
    """Return a judge's call on every metric: `winner` is "challenger", "king" or "draw"."""
    first, second = ("challenger", "king") if order == ORDERS[0] else ("king", "challenger")
    return dict.fromkeys(METRICS, {first: 1, second: 2, "draw": 0}[winner])


def verdict_text(winner: str = "draw", order: str = ORDERS[0], **changed) -> str:
    """Return a judge's whole answer, JSON with its reason; `changed` replaces calls."""
    return json.dumps({**verdict_calls(winner, order), "reason": "because", **changed})


def make_verdict(judge: str, order: str, half_points: list[int] | int | None, **fields) -> dict:
    """Return one verdict by its half-points (2 a win of the challenger, 0 a loss) by metric.

    One number stands for all metrics. Without half-points it is one that could not be read.
    """
    calls = None
    if isinstance(half_points, int):
        half_points = [half_points] * len(METRICS)
    if half_points is not None:
        shown = (2, 0, 1) if order == "challenger-first" else (1, 0, 2)
        calls = {metric: shown[half] for metric, half in zip(METRICS, half_points)}
    verdict = {
        "key": digest(judge, order),
        "judge": judge,
        "mode": 2,
        "look": 1,
        "order": order,
        "calls": calls,
        "reason": "because" if calls else "",
        "text": json.dumps(calls),
        **make_call_meta(model=judge, model_answered=judge, cost_usd=0.002),
    }
    del verdict["model"], verdict["sampling"]
    return {**verdict, **fields}


def make_verdicts(points: int, judges=JUDGES, **fields) -> list[dict]:
    """Return a panel's verdicts that sum to `points` half-points, spread evenly over the judges."""
    halves = {}
    for metric in METRICS:
        for order in ORDERS:
            for judge in judges:
                halves[judge, order, metric] = min(2, points)
                points -= min(2, points)
    assert points == 0, "more points than the panel has"
    verdicts = []
    for judge in judges:
        for order in ORDERS:
            of_metrics = [halves[judge, order, metric] for metric in METRICS]
            verdicts.append(make_verdict(judge, order, of_metrics, **fields))
    return verdicts


def make_score(stem: str, answer: dict, points: int, judges=JUDGES, **fields) -> dict:
    """Return score/<stem>.json of a parsed turn with `points` half-points for the challenger."""
    verdicts = make_verdicts(points, judges)
    for verdict in verdicts:
        verdict["key"] = digest(stem, verdict["judge"], verdict["order"])
    score = {
        "stem": stem,
        "instance_id": answer["instance_id"],
        "repo": answer["meta"]["repo"],
        "mode": 2,
        **turn_score(verdicts, list(judges)),
        "parsed": True,
        "status": "parsed",
        "reason": f"{judges[0]}: reads the file that the traceback names",
        "sha": text_digests(answer),
        "counted": [verdict["key"] for verdict in verdicts],
        "verdicts": verdicts,
    }
    return {**score, **fields}


def make_duel(scores: list[dict], judges=JUDGES, **fields) -> dict:
    """Return score/_duel.json over these scores; the gate's figures are made up."""
    parsed = [score for score in scores if score["parsed"]]
    mean = sum(score["score"] for score in parsed) / max(1, len(parsed))
    margin = 2 * mean - 100
    usage = {
        "prompt_tokens": 1000 * len(scores),
        "completion_tokens": 50 * len(scores),
        "reasoning_tokens": 0,
        "cached_tokens": 0,
    }
    judge = {
        "score": mean,
        "parse_rate": 1.0,
        "position_consistency": 0.8,
        "pull": 0.05,
        "agreement": 0.4,
        "calls": 2 * len(scores),
        "usage": usage,
        "cost_usd": 0.5,
    }
    without = {"mean_score": mean, "margin": margin, "lcb": 0.02, "accepted": mean > 52}
    duel = {
        "mode": 2,
        "opponent": "king",
        "accepted": mean > 52,
        "why": f"margin {margin:+.2f}",
        "margin": margin,
        "mean_score": mean,
        "lcb": 2.0,
        "se": 1.0,
        "interval": [mean - 3, mean + 3],
        "win_margin": 2.0,
        "alpha": 0.05,
        "turns": {
            "answered": len(scores),
            "parsed": len(parsed),
            "parse_fail": sum(score["status"] == "parse-fail" for score in scores),
            "unfinished": 0,
            "identical": 0,
        },
        "parsed_frac": len(parsed) / max(1, len(scores)),
        "instances": len({score["instance_id"] for score in scores}),
        "metrics": dict.fromkeys(METRICS, mean),
        "judges": dict.fromkeys(judges, judge),
        "agreement": {"name": "Krippendorff's alpha (nominal)", "value": 0.41},
        "leave_one_out": dict.fromkeys(judges, without),
        "without_generator": without,
        "usage": usage,
        "cost_usd": 1.5,
        "config": {},
    }
    return {**duel, **fields}


# ---------------------------------------------------------------------------------- whole folders


def write_settings(folder: Path, **sections: dict) -> None:
    """Write chain.toml with the sections given, each key as TOML writes it."""
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    Path(folder, "chain.toml").write_text("\n".join(lines) + "\n")


def make_sample(folder: Path, count: int, per_file: int = PROMPTS_PER_FILE) -> None:
    """Write prompt/ and commit/ with `count` turns, an instance each, as prompt.py does."""
    prompts = [make_prompt(number) for number in range(count)]
    write_prompts(folder, prompts, per_file)
    for number, prompt in enumerate(prompts):
        put(Path(folder, "commit", f"{prompt['instance_id']}.json"), make_record(number))


def write_prompts(folder: Path, prompts: list[dict], per_file: int = PROMPTS_PER_FILE) -> list[str]:
    """Write prompt/prompts_*.json; returns the stems of their turns."""
    stems = []
    for first in range(0, len(prompts), per_file):
        part = prompts[first : first + per_file]
        name = f"prompts_{len(prompts)}_{first // per_file + 1}"
        put(Path(folder, "prompt", f"{name}.json"), part)
        stems += [f"{name}_{order}" for order in range(1, len(part) + 1)]
    return stems


def make_run(folder: Path, points: list[int], instances: int = 12, chars: int = 2000) -> list[str]:
    """Write what report.py reads: a judged turn for each entry of `points` (half-points of MOST).

    Turns share `instances` instances, two to a repo. Returns the stems.
    """
    prompts = []
    for number in range(len(points)):
        instance = number % instances
        repo = f"owner-{instance // 2}/project"
        prompt = make_prompt(number, chars, steps=number % 9, repo=repo)
        prompt["instance_id"] = f"owner-{instance // 2}__project-{instance}"
        prompts.append(prompt)
        put(
            Path(folder, "commit", f"{prompt['instance_id']}.json"),
            make_record(instance, repo=repo),
        )
    stems = write_prompts(folder, prompts)
    scores = []
    for number, stem in enumerate(stems):
        answer = make_answer(number, prompts[number])
        scores.append(make_score(stem, answer, points[number]))
        put(Path(folder, "answer_0", f"{stem}.json"), answer)
        put(Path(folder, "score", f"{stem}.json"), scores[-1])
    plan = {
        "dataset": "AlienKevin/SWE-ZERO-12M-trajectories",
        "revision": "abc123",
        "seed": 7,
        "count": len(points),
        "offsets": [1, 2],
        "excluded": [{"instance_id": "x__y-1", "repo": "x/y", "reason": "benchmark"}],
    }
    put(Path(folder, "prompt", "_plan.json"), plan)
    put(Path(folder, "score", "_duel.json"), make_duel(scores))
    return stems


def answers(folder: Path) -> dict[str, dict]:
    """Return all answers by stem, each whole JSON; no temporary file may lie beside them."""
    found = {}
    for path in sorted([*Path(folder).glob("answer_*/*"), *Path(folder).glob("answer_*/.*")]):
        assert not path.name.endswith(".tmp"), f"left behind: {path}"
        if path.suffix == ".json" and not path.name.startswith("_"):
            found[path.stem] = get(path)
    return found
