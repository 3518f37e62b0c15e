"""report.py as its user runs it: a subprocess in a folder that holds what the earlier stages write."""
from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.io import clean_text, digest

SCRIPTS = Path(__file__).resolve().parent.parent
METRICS = ("correctness", "grounding", "progress", "protocol", "efficiency")
JUDGES = ("maker-a/judge-1", "maker-b/judge-2", "maker-c/judge-3")
MOST = 2 * len(METRICS) * 2 * len(JUDGES)  # half-points of a turn: 60
BUCKETS = ("final", "refined", "defeat")
COMMANDS = ("ls -la src/{w}", "grep -rn '{w}' src/", "cat src/{w}.py", "sed -n '1,80p' src/{w}.py",
            "sed -i 's/{w}/{v}/' src/{w}.py", "git diff --stat {w}", "find . -name '*{w}*'")
WORDS = ("parser lexer token stream buffer header cookie session router cache index query cursor schema field filter "
         "socket thread signal handler logger format locale encoder decoder matrix vector tensor layer kernel").split()


# ------------------------------------------------------------------------------------- a folder as the stages leave it

def reply(rng: random.Random, words: int = 40) -> str:
    said = " ".join(rng.choice(WORDS) for _ in range(words))
    return f"THOUGHT: I look at {said}.\n\n```bash\n{rng.choice(COMMANDS).format(w=rng.choice(WORDS), v=rng.choice(WORDS))}\n```"


def make_answer(number: int, chat_chars: int = 2000, instances: int = 12) -> dict:
    rng = random.Random(number)
    repo = f"owner-{number % instances // 2}/project"
    instance = f"owner-{number % instances // 2}__project-{number % instances}"
    messages = [{"role": "system", "content": "You are an agent. Reply with a THOUGHT and one bash block."},
                {"role": "user", "content": f"Please mend issue {instance}. " + "It fails. " * (chat_chars // 30)}]
    for step in range(number % 9):
        messages += [{"role": "assistant", "content": reply(rng)},
                     {"role": "user", "content": "Observation: " + f"line {step} of output\n" * (chat_chars // 17)}]
    side = {"model": "maker-a/writer", "model_answered": "maker-a/writer", "sampling": {"temperature": 1.0},
            "prompt_version": "1", "usage": {"prompt_tokens": 900, "completion_tokens": 80, "reasoning_tokens": 10,
                                             "cached_tokens": 0},
            "cost_usd": 0.001, "finish_reason": "stop", "asked_at": "2026-01-02T03:04:05+00:00", "time_s": 1.5, "tries": 1,
            "invocation_id": None}
    return {"instance_id": instance, "king": reply(rng), "challenger": reply(rng, 50), "assistant": reply(rng, 20),
            "messages": messages,
            "meta": {"repo": repo, "source": {"file": "data/train-0.parquet", "row": number, "turn": len(messages)},
                     "king": {**side, "leaks": [] if number % 10 else [{"kind": "path", "text": "a/b.py", "why": "unseen"}]},
                     "challenger": {**side, "leaks": [], "rejected": {"path": number % 3}}}}


def shas(answer: dict) -> dict:
    return {"chat": digest(*(part for m in answer["messages"] for part in (m["role"], m["content"]))),
            **{side: digest(answer[side] or "") for side in ("king", "challenger", "assistant")}}


def make_score(stem: str, answer: dict, points: int, mode: int = 2, text_chars: int = 400, **fields) -> dict:
    score = 100 * points / MOST
    return {"stem": stem, "instance_id": answer["instance_id"], "repo": answer["meta"]["repo"], "mode": mode, "score": score,
            "points": points, "max_points": MOST, "parsed": True, "status": "parsed",
            "metrics": {name: score for name in METRICS}, "by_judge": {judge: score for judge in JUDGES},
            "reason": f"{JUDGES[0]}: reads the file that the traceback names", "flags": [], "sha": shas(answer),
            "verdicts": [{"key": digest(stem, judge, order), "judge": judge, "mode": mode, "order": order,
                          "calls": {name: 1 for name in METRICS}, "reason": "because", "text": "x" * text_chars,
                          "usage": {"prompt_tokens": 1000, "completion_tokens": 50}, "cost_usd": 0.002,
                          "finish_reason": "stop", "time_s": 2.0, "tries": 1, "invocation_id": None,
                          "asked_at": "2026-01-02T03:05:05+00:00"}
                         for judge in JUDGES for order in ("challenger-first", "challenger-second")], **fields}


def make_duel(scores: list[dict], **fields) -> dict:
    parsed = [score for score in scores if score["parsed"]]
    mean = sum(score["score"] for score in parsed) / max(1, len(parsed))
    usage = {"prompt_tokens": 1000 * len(scores), "completion_tokens": 50 * len(scores), "reasoning_tokens": 0,
             "cached_tokens": 0}
    without = {"mean_score": mean, "margin": 2 * mean - 100, "lcb": 0.02, "accepted": mean > 52}
    return {"mode": 2, "accepted": mean > 52, "why": f"margin {2 * mean - 100:+.2f}", "margin": 2 * mean - 100,
            "mean_score": mean, "lcb": 2.0, "se": 1.0, "interval": [mean - 3, mean + 3], "win_margin": 2.0, "alpha": 0.05,
            "turns": {"answered": len(scores), "parsed": len(parsed), "unfinished": 0, "identical": 0,
                      "parse_fail": sum(score["status"] == "parse-fail" for score in scores)},
            "parsed_frac": len(parsed) / max(1, len(scores)), "instances": 12, "metrics": {name: mean for name in METRICS},
            "judges": {judge: {"score": mean, "parse_rate": 1.0, "position_consistency": 0.8, "pull": 0.05,
                               "agreement": 0.4, "calls": 2 * len(scores), "usage": usage, "cost_usd": 0.5}
                       for judge in JUDGES},
            "agreement": {"name": "Krippendorff's alpha (nominal)", "value": 0.41},
            "leave_one_out": {judge: without for judge in JUDGES}, "without_generator": without, "retest": None,
            "usage": usage, "cost_usd": 1.5, "config": {}, "made_at": "2026-01-02T04:00:00+00:00", **fields}


def put(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def get(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def make_run(root: Path, points: list[int], instances: int = 12, chat_chars: int = 2000, text_chars: int = 400) -> list[str]:
    """One judged turn for each entry of `points` (half-points of MOST), with prompts and records; returns the stems."""
    stems, scores, prompts, place_of_file = [], [], [], 200
    for number, won in enumerate(points):
        stem = f"prompts_{len(points)}_{number // place_of_file}_{number % place_of_file + 1}"
        answer = make_answer(number, chat_chars, instances)
        score = make_score(stem, answer, won, text_chars=text_chars)
        put(root / f"answer_0/{stem}.json", answer)
        put(root / f"score/{stem}.json", score)
        scores.append({key: score[key] for key in ("parsed", "status", "score")})
        stems.append(stem)
        prompts.append({"instance_id": answer["instance_id"], "repo": answer["meta"]["repo"], "messages": answer["messages"],
                        "assistant": answer["assistant"], "source": answer["meta"]["source"]})
        if len(prompts) == place_of_file or number == len(points) - 1:
            put(root / f"prompt/prompts_{len(points)}_{number // place_of_file}.json", prompts)
            prompts = []
        record = root / f"commit/{answer['instance_id']}.json"
        if not record.exists():
            put(record, make_record(answer["instance_id"], answer["meta"]["repo"]))
    put(root / "prompt/_plan.json", {"dataset": "AlienKevin/SWE-ZERO-12M-trajectories", "revision": "abc123", "seed": 7,
                                     "count": len(points), "offsets": [1, 2],
                                     "excluded": [{"instance_id": "x__y-1", "repo": "x/y", "reason": "benchmark"}]})
    put(root / "score/_duel.json", make_duel(scores))
    return stems


def make_record(instance: str, repo: str, patch_chars: int = 500) -> dict:
    return {"instance_id": instance, "repo": repo, "base_commit": "0" * 40, "issue": "It fails.", "description": "Mends it.",
            "files": ["src/a.py"], "patch": "+" * patch_chars, "test_patch": "", "interface": "", "language": "python",
            "created_at": "2024-01-01"}


def report(root: Path, *flags: str, code: int | None = 0) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, SCRIPTS / "report.py", *flags], cwd=root, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


def where(root: Path) -> dict[str, list[str]]:
    """The buckets in which each turn lies."""
    found = {}
    for bucket in BUCKETS:
        for path in (root / bucket).glob("[!_]*.json"):
            found.setdefault(path.stem, []).append(bucket)
    return found
