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

from common.config import check_config
from common.files import clean_text, digest

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


def edit(path: Path, **fields) -> dict:
    value = {**get(path), **fields}
    put(path, value)
    return value


def rejudge(root: Path, stem: str, points: int, most: int = MOST, **fields) -> None:
    edit(root / f"score/{stem}.json", points=points, max_points=most, score=100 * points / most, **fields)


def redo_duel(root: Path) -> None:
    put(root / "score/_duel.json", make_duel([get(path) for path in sorted((root / "score").glob("[!_]*.json"))]))


def rewrite(root: Path, stem: str, **fields) -> None:
    """Change an answer and let its score be of the new text."""
    answer = edit(root / f"answer_0/{stem}.json", **fields)
    edit(root / f"score/{stem}.json", sha=shas(answer))


def state(root: Path) -> dict[str, tuple[int, int]]:
    """Every file that report.py may write, with what changes when it is written again."""
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino)
            for folder in (*BUCKETS, "export", "report") for path in (root / folder).glob("[!_]*")}


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def exported(root: Path, kind: str = "sft") -> list[dict]:
    return [row for split in ("train", "validation") for row in rows(root / f"export/{kind}-{split}.jsonl")]


# ---------------------------------------------------------------------------------------------------------- buckets

def test_buckets_are_exact_at_the_thresholds(tmp_path):
    stems = make_run(tmp_path, [30] * 6)
    for stem, (points, most) in zip(stems, [(80, 100), (79, 100), (66, 100), (65, 100), (48, 60), (0, 60)]):
        rejudge(tmp_path, stem, points, most)
    answers = {stem: (tmp_path / f"answer_0/{stem}.json").read_bytes() for stem in stems}
    report(tmp_path)
    assert [where(tmp_path)[stem] for stem in stems] == [
        ["final"], ["refined"], ["refined"], ["defeat"], ["final"], ["defeat"]]
    answer, copy = json.loads(answers[stems[0]]), get(tmp_path / f"final/{stems[0]}.json")
    assert copy == {**answer, "score": 80.0, "metrics": {name: 50.0 for name in METRICS},
                    "reason": f"{JUDGES[0]}: reads the file that the traceback names"}
    assert answers == {stem: (tmp_path / f"answer_0/{stem}.json").read_bytes() for stem in stems}


def test_flipped_verdicts_leave_each_turn_in_exactly_one_bucket(tmp_path):
    rng = random.Random(3)
    stems = make_run(tmp_path, [rng.randrange(MOST + 1) for _ in range(40)])
    report(tmp_path)
    before = where(tmp_path)
    for stem in stems:
        rejudge(tmp_path, stem, MOST - get(tmp_path / f"score/{stem}.json")["points"])
    report(tmp_path, "--check", code=1)
    redo_duel(tmp_path)
    report(tmp_path)
    after = where(tmp_path)
    assert set(after) == set(stems) and all(len(buckets) == 1 for buckets in after.values()) and after != before
    report(tmp_path, "--check")


def test_a_killed_report_loses_nothing_and_the_next_one_mends_it(tmp_path):
    stems = make_run(tmp_path, [54] * 150, chat_chars=200)
    report(tmp_path)
    rng, cut_short = random.Random(5), 0
    for round_number in range(6):
        for stem in stems:
            rejudge(tmp_path, stem, 6 if round_number % 2 == 0 else 54)
        process = subprocess.Popen([sys.executable, SCRIPTS / "report.py"], cwd=tmp_path, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        target, deadline = tmp_path / ("defeat" if round_number % 2 == 0 else "final"), time.monotonic() + 20
        wanted = rng.randrange(1, 140)
        while process.poll() is None and time.monotonic() < deadline and len(list(target.glob("[!_]*.json"))) < wanted:
            time.sleep(0.002)
        process.kill()
        process.wait()
        found = where(tmp_path)
        assert set(found) == set(stems)
        cut_short += len({tuple(buckets) for buckets in found.values()}) > 1
        for bucket in BUCKETS:
            for path in (tmp_path / bucket).glob("[!_]*.json"):
                assert get(path)["score"] in (10.0, 90.0)
    assert cut_short >= 2, "no run was killed midway: the test shows nothing"
    redo_duel(tmp_path)
    report(tmp_path)
    assert all(len(buckets) == 1 for buckets in where(tmp_path).values())
    report(tmp_path, "--check")
    assert not [path for folder in (*BUCKETS, "export", "report") for path in (tmp_path / folder).glob("*.tmp*")]


def test_files_that_are_not_ours_are_left_alone(tmp_path):
    stems = make_run(tmp_path, [54, 54, 6])
    report(tmp_path)
    (tmp_path / f"answer_0/{stems[2]}.json").unlink()
    put(tmp_path / "defeat" / f"{stems[0]}.json", {"note": "mine"})  # the name of a turn that belongs elsewhere
    put(tmp_path / "final/notes.json", {"note": "mine"})
    (tmp_path / "refined/readme.txt").write_text("mine")
    put(tmp_path / "final" / f"{stems[1]}.json", {"note": "in the way"})
    last_copy = {**make_answer(99), "score": 99.0, "metrics": {}, "reason": ""}
    put(tmp_path / "final/prompts_9_0_1.json", last_copy)  # its answer is gone: perhaps the last copy there is
    done = report(tmp_path)
    assert get(tmp_path / "defeat" / f"{stems[0]}.json") == {"note": "mine"}
    assert where(tmp_path)[stems[2]] == ["defeat"]  # the same, of a turn that still has its score
    assert get(tmp_path / "final/notes.json") == {"note": "mine"}
    assert (tmp_path / "refined/readme.txt").read_text() == "mine"
    assert get(tmp_path / "final/prompts_9_0_1.json") == last_copy
    assert get(tmp_path / "final" / f"{stems[1]}.json.bad") == {"note": "in the way"} and ".bad" in done.stdout
    assert get(tmp_path / "final" / f"{stems[1]}.json")["score"] == 90.0
    assert {row["stem"] for row in exported(tmp_path)} == set(stems[:2])


def test_check_sees_that_chain_toml_asks_for_another_panel_now(tmp_path):
    make_run(tmp_path, [54] * 6)
    panel = {model: check_config({}, None).judge_call(model).sampling() for model in check_config({}, None).judge.models}
    edit(tmp_path / "score/_duel.json", config={"judges": panel})
    report(tmp_path)
    assert report(tmp_path, "--check").returncode == 0
    (tmp_path / "chain.toml").write_text("[judge]\ntemperature = 0.1\n")
    assert "python validate.py" in report(tmp_path, "--check", code=1).stdout


def test_turns_without_a_verdict_of_their_present_text_are_in_no_bucket(tmp_path):
    stems = make_run(tmp_path, [54] * 6)
    report(tmp_path)
    edit(tmp_path / f"answer_0/{stems[0]}.json", challenger=reply(random.Random(77)))  # judged before: stale
    edit(tmp_path / f"score/{stems[1]}.json", parsed=False, status="parse-fail", points=None, score=None, metrics=None)
    edit(tmp_path / f"score/{stems[2]}.json", parsed=False, status="unfinished", points=None, score=None, metrics=None)
    edit(tmp_path / f"answer_0/{stems[3]}.json", challenger=None)
    (tmp_path / f"score/{stems[4]}.json").write_text('{"stem": ')
    done = report(tmp_path, code=1)
    assert where(tmp_path) == {stems[5]: ["final"]}
    assert len(exported(tmp_path)) == 1
    assert "1 parse-fail" in (text := (tmp_path / "report/report.md").read_text()) and "1 stale" in text
    for command in ("python ch.py", "python validate.py", "python validate.py --retry-failed"):
        assert command in text and command in done.stdout
    assert [row["item"] for row in rows(tmp_path / "report/_failed.jsonl")] == [stems[4]]
    checked = report(tmp_path, "--check", code=1).stdout
    assert re.search(rf"stale, mended by: python validate.py: 1\n  score/{stems[0]}.json", checked)
    assert f"score/{stems[4]}.json: not a whole JSON document" in checked


def test_a_reply_that_breaks_the_protocol_never_reaches_final_or_the_exports(tmp_path):
    stems = make_run(tmp_path, [54, 54, 42])
    two_blocks = "THOUGHT: Both.\n\n```bash\nls\n```\n\n```bash\npwd\n```"
    rewrite(tmp_path, stems[0], challenger=two_blocks)
    rewrite(tmp_path, stems[2], challenger=two_blocks)
    report(tmp_path, "--with-refined")
    assert where(tmp_path) == {stems[0]: ["refined"], stems[1]: ["final"], stems[2]: ["refined"]}
    assert get(tmp_path / f"refined/{stems[0]}.json")["reason"].startswith("Held back from final/: the reply holds 2")
    assert [row["stem"] for row in exported(tmp_path)] == [stems[1]]
    assert "2 held back" in (tmp_path / "report/report.md").read_text()


def test_an_unchanged_run_rewrites_nothing(tmp_path):
    make_run(tmp_path, [54, 42, 6] * 4)
    report(tmp_path)
    before = state(tmp_path)
    report(tmp_path)
    assert state(tmp_path) == before and len(before) == 12 + 3 + len(list((tmp_path / "export").iterdir()))


# ---------------------------------------------------------------------------------------------------------- exports

def test_exports_load_and_keep_to_the_formats(tmp_path):
    stems = make_run(tmp_path, [54] * 60, instances=60)
    answer = get(tmp_path / f"answer_0/{stems[3]}.json")
    rewrite(tmp_path, stems[3], challenger="THOUGHT: odd \ud83d text | é 漢\n\n```bash\nls\n```")  # a lone surrogate
    for message in answer["messages"]:
        message["extra"] = 1  # other fields of the source data stay out
    rewrite(tmp_path, stems[4], messages=answer["messages"])
    report(tmp_path)
    load = ("import json, datasets\n"
            "for name in ('sft', 'dpo'):\n"
            "    found = datasets.load_dataset('./export', name)\n"
            "    alone = {split: datasets.load_dataset('json', data_files=f'export/{name}-{split}.jsonl', split='train')\n"
            "             for split in found}\n"
            "    assert all(found[split].to_list() == alone[split].to_list() for split in found)\n"
            "    print(json.dumps({s: [found[s].num_rows, {k: str(v) for k, v in found[s].features.items()}] for s in found}))\n"
            "assert 'completion' in datasets.load_dataset('./export')['train'].features\n")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run([sys.executable, "-c", load], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    sft, dpo = map(json.loads, done.stdout.splitlines())
    for found, reply_keys in ((sft, ["completion"]), (dpo, ["chosen", "rejected"])):
        assert set(found) == {"train", "validation"} and sum(n for n, _ in found.values()) == 60
        for _, features in found.values():
            assert list(features) == ["prompt", *reply_keys, "instance_id", "repo", "stem", "score", "meta"]
            assert "float64" in features["score"] and "string" in features["meta"]
            assert set(re.findall(r"'(\w+)': Value", features["prompt"])) == {"role", "content"}
    for row, other in zip(exported(tmp_path), exported(tmp_path, "dpo")):
        answer = json.loads(clean_text(json.dumps(get(tmp_path / f"answer_0/{row['stem']}.json"), ensure_ascii=False)))
        assert row["completion"] == other["chosen"] == [{"role": "assistant", "content": answer["challenger"]}]
        assert other["rejected"] == [{"role": "assistant", "content": answer["king"]}] and row["score"] == 90.0
        assert row["prompt"] == other["prompt"] == [
            {"role": message["role"], "content": message["content"]} for message in answer["messages"]]
        assert json.loads(row["meta"])["judged_against"] == "king"


def test_the_split_is_by_repo_and_survives_growth(tmp_path):
    def sides(turns: int) -> dict[str, str]:
        root = tmp_path / str(turns)
        make_run(root, [54] * turns, instances=400, chat_chars=100)
        report(root)
        found = {}
        for split in ("train", "validation"):
            for row in rows(root / f"export/sft-{split}.jsonl"):
                assert found.setdefault(row["repo"], split) == split
        return found

    small, large = sides(120), sides(300)
    assert small.items() <= large.items() and len(large) > len(small)
    assert 0.02 < sum(side == "validation" for side in large.values()) / len(large) < 0.25
    hashed = {repo: int(hashlib.sha256(repo.encode()).hexdigest()[:16], 16) / 2**64 < 0.1 for repo in large}
    assert {repo for repo, side in large.items() if side == "validation"} == {repo for repo, low in hashed.items() if low}


def test_near_duplicates_within_an_instance_are_dropped(tmp_path):
    stems = make_run(tmp_path, [54] * 8, instances=8)
    long = " ".join(f"word{n}" for n in range(60))
    said = f"THOUGHT: {long}\n\n```bash\ncat src/parser.py\n```"
    instance = get(tmp_path / f"answer_0/{stems[0]}.json")["instance_id"]
    rewrite(tmp_path, stems[0], challenger=said)
    rewrite(tmp_path, stems[1], challenger=said.replace("word30", "Another"), instance_id=instance)  # near
    rewrite(tmp_path, stems[2], challenger=said.upper().replace("```BASH", "```bash"), instance_id=instance)  # case only
    rewrite(tmp_path, stems[3], challenger=said)  # the same, of another instance
    rewrite(tmp_path, stems[4], challenger=said.replace("word", "other"), instance_id=instance)  # another text
    rejudge(tmp_path, stems[1], 60)
    report(tmp_path)
    assert {row["stem"] for row in exported(tmp_path)} == {stems[1], *stems[3:]}  # of the three near ones the best-scored
    assert len(where(tmp_path)) == 8
    assert "2 near-duplicates dropped" in (tmp_path / "report/report.md").read_text()
    assert "(2 dropped)" in (tmp_path / "export/README.md").read_text()
    table = list(csv.DictReader((tmp_path / "report/turns.csv").open()))
    assert [row["export"] for row in table].count("not exported: near-duplicate") == 2


def test_stale_exports_go_and_an_empty_export_leaves_a_valid_card(tmp_path):
    stems = make_run(tmp_path, [54] * 60, instances=60, chat_chars=100)
    report(tmp_path)
    assert (tmp_path / "export/sft-validation.jsonl").exists()
    (tmp_path / "export/mine.txt").write_text("mine")
    for stem in stems:
        rejudge(tmp_path, stem, 6)
    redo_duel(tmp_path)
    report(tmp_path)
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == ["README.md", "mine.txt"]
    assert "configs" not in card(tmp_path)


def card(root: Path) -> dict:
    import yaml

    return yaml.safe_load((root / "export/README.md").read_text(encoding="utf-8").split("---\n")[1])


def test_the_card_states_what_lies_there_and_keeps_the_licence_that_was_stated(tmp_path):
    stems = make_run(tmp_path, [54] * 6 + [42] * 6, instances=24)
    report(tmp_path)
    front = card(tmp_path)
    assert front["license"] == "unknown" and front["size_categories"] == ["n<1K"]
    named = {part["path"] for config in front["configs"] for part in config["data_files"]}
    assert named == {path.name for path in (tmp_path / "export").glob("*.jsonl")}
    text = (tmp_path / "export/README.md").read_text()
    for said in ("SWE-ZERO-12M-trajectories", "abc123", *JUDGES, "final from 80", "Krippendorff", "maker-a/writer"):
        assert said in text
    (tmp_path / "export/README.md").write_text(
        text.replace(re.search(r"license: .*", text)[0], "license: other\nlicense_name: mine\nlicense_link: LICENSE"))
    rejudge(tmp_path, stems[0], 6)
    redo_duel(tmp_path)
    report(tmp_path, "--with-refined")
    front = card(tmp_path)
    assert (front["license"], front["license_name"], front["license_link"]) == ("other", "mine", "LICENSE")
    assert {row["stem"] for row in exported(tmp_path)} == set(stems[1:])
    report(tmp_path, "--check")


def test_a_local_dataset_is_named_without_its_path(tmp_path):
    make_run(tmp_path, [54] * 3)
    edit(tmp_path / "prompt/_plan.json", dataset="/home/someone/secret-place/data")
    report(tmp_path)
    for path in ("export/README.md", "report/report.md"):
        assert "someone" not in (text := (tmp_path / path).read_text()) and "local files data" in text


def test_against_the_reference_the_rejected_reply_is_the_reference(tmp_path):
    stems = make_run(tmp_path, [54] * 3)
    for stem in stems:
        edit(tmp_path / f"score/{stem}.json", mode=1)
    edit(tmp_path / "score/_duel.json", mode=1)
    report(tmp_path)
    for row in exported(tmp_path, "dpo"):
        assert row["rejected"][0]["content"] == get(tmp_path / f"answer_0/{row['stem']}.json")["assistant"]
        assert json.loads(row["meta"])["judged_against"] == "reference"
    assert "against reference" in (tmp_path / "report/report.md").read_text()
    edit(tmp_path / f"answer_0/{stems[0]}.json", king="THOUGHT: anew\n\n```bash\nls\n```")  # no judge read it
    report(tmp_path)
    assert len(where(tmp_path)) == 3


@pytest.mark.skipif(not os.environ.get("TRL_PYTHON"), reason="TRL_PYTHON names no Python that has TRL")
def test_trl_takes_the_exports_for_its_own_formats(tmp_path):
    make_run(tmp_path, [54] * 20, instances=60)
    report(tmp_path)
    check = """
import datasets, tokenizers, transformers
from trl.data_utils import apply_chat_template, is_conversational, maybe_extract_prompt
words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
tokenizer.chat_template = ("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
                           "{% if add_generation_prompt %}<assistant>{% endif %}")
for name, keys in (("sft", {"prompt", "completion"}), ("dpo", {"prompt", "chosen", "rejected"})):
    for split in datasets.load_dataset("./export", name).values():
        for row in split:
            assert is_conversational(row) and maybe_extract_prompt(row) == row
            texts = apply_chat_template(row, tokenizer)
            assert keys <= set(texts) and all(isinstance(texts[key], str) and texts[key] for key in keys)
            print(name)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run([os.environ["TRL_PYTHON"], "-c", check], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split().count("sft") == done.stdout.split().count("dpo") == 20


# ------------------------------------------------------------------------------------------------------- report.md

HOSTILE = ("=1+1 | a `b` <script>alert(1)</script> [x](http://evil.example) ![i](javascript:1) @everyone $x$ **b** _i_ ~~s~~"
           "\n\n# head\n| a | b |\n\u202e www.evil.example \\ <!-- &amp;")


def test_text_from_data_stays_text(tmp_path):
    stems = make_run(tmp_path, [54, 42, 6] * 2)
    for stem in stems:
        edit(tmp_path / f"score/{stem}.json", reason=HOSTILE, by_judge={JUDGES[0]: 100.0, JUDGES[1]: 0.0}, flags=[HOSTILE])
        answer = get(tmp_path / f"answer_0/{stem}.json")
        answer["meta"]["repo"] = HOSTILE
        answer["meta"]["challenger"]["leaks"] = [{"kind": HOSTILE, "text": HOSTILE, "why": HOSTILE}]
        rewrite(tmp_path, stem, instance_id=HOSTILE, meta=answer["meta"])
    edit(tmp_path / "score/_duel.json", why=HOSTILE)
    edit(tmp_path / "prompt/_plan.json", dataset=HOSTILE, revision=HOSTILE,
         excluded=[{"instance_id": HOSTILE, "repo": HOSTILE, "reason": HOSTILE}])
    (tmp_path / "answer_0/_failed.jsonl").write_text(json.dumps(
        {"item": HOSTILE, "stage": "king.py", "kind": HOSTILE, "reason": HOSTILE}) + "\nnot json\n")
    report(tmp_path)
    for name in ("report/report.md", "report/hugePR.md", "export/README.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "evil" in text
        for raw in ("<script", "http://evil", "www.evil", "@everyone", "$x", " `b`", "\n# head", "\u202e", "[x](", "<!--", " **b"):
            assert raw not in text, (name, raw)
        width = None
        for line in text.splitlines():
            cells = len(re.findall(r"(?<!\\)\|", line))
            assert not line.startswith("|") or width in (None, cells), line
            width = cells if line.startswith("|") else None
    for row in csv.reader((tmp_path / "report/turns.csv").open(newline="")):
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row) and len(row) > 20


def test_the_report_says_what_a_reader_in_a_hurry_needs(tmp_path):
    make_run(tmp_path, [54, 42, 6, 40] * 6)
    put(tmp_path / "answer_0/_failed.jsonl", {"item": "prompts_24_0_9", "stage": "ch.py", "kind": "leak (path)", "reason": "x"})
    report(tmp_path)
    text = (tmp_path / "report/report.md").read_text()
    first = text.splitlines()[:3]
    assert first[0] == "# Challenger against king: accepted" and first[2].startswith("**Accepted.** margin")
    duel = get(tmp_path / "score/_duel.json")
    for said in ("24 answered, **24 parsed**", f"**{duel['mean_score']:.1f}** of 100, 90 % interval", "[final/](../final) 6 (25 %)",
                 "revision abc123, seed 7", "2026-01-02T04:00:00", "king by maker-a/writer", "0.50 USD", "xychart-beta",
                 "line [80, 80", "line [66, 66", "80 to 90", "Krippendorff", "| path | 0 | 3 | 24 |", "*few*",
                 "leak (path)", "[prompts_24_0_1](../answer_0/prompts_24_0_1.json)"):
        assert said in text, said
    assert (tmp_path / "report" / "../answer_0/prompts_24_0_1.json").exists()
    listed = text.split("## All turns")[1]
    assert listed.count("../answer_0/") == 24
    scores = [float(line.split("|")[1]) for line in listed.splitlines() if "answer_0" in line]
    assert scores == sorted(scores, reverse=True)


def test_a_large_run_shows_the_ends_and_keeps_the_rest_in_the_table(tmp_path):
    stems = make_run(tmp_path, [n % (MOST + 1) for n in range(150)], chat_chars=100)
    edit(tmp_path / f"score/{stems[7]}.json", by_judge={JUDGES[0]: 100.0, JUDGES[1]: 0.0, JUDGES[2]: 50.0})
    report(tmp_path)
    text = (tmp_path / "report/report.md").read_text()
    assert "## All turns" not in text and text.count("../answer_0/") < 120 and len(text) < 60_000
    assert text.split("### Most disputed")[1].split("../answer_0/")[1].startswith(f"{stems[7]}.json")
    table = list(csv.DictReader((tmp_path / "report/turns.csv").open()))
    assert [row["stem"] for row in table] == stems and {row["bucket"] for row in table} == set(BUCKETS)


def test_a_missing_or_outdated_verdict_is_said(tmp_path):
    stems = make_run(tmp_path, [54] * 4)
    rejudge(tmp_path, stems[0], 6)
    assert "stale" in report(tmp_path).stdout
    assert "out of date" in (tmp_path / "report/report.md").read_text()
    assert "stale verdict, mended by: python validate.py" in report(tmp_path, "--check", code=1).stdout
    redo_duel(tmp_path)
    edit(tmp_path / "score/_duel.json", config={"duel": {"win_margin": 9.0}})
    report(tmp_path)
    assert "chain.toml" in (tmp_path / "report/report.md").read_text().split("##")[0]
    (tmp_path / "score/_duel.json").unlink()
    report(tmp_path)
    assert "no verdict yet" in (tmp_path / "report/report.md").read_text().splitlines()[0]


def test_what_was_left_out_is_named_with_its_size(tmp_path):
    make_run(tmp_path, [54] * 6, instances=6)
    large, missing = [get(tmp_path / f"answer_0/prompts_6_0_{n}.json")["instance_id"] for n in (1, 2)]
    put(tmp_path / f"commit/{large}.json", make_record(large, "owner-0/project", patch_chars=250_000))
    (tmp_path / f"commit/{missing}.json").unlink()
    report(tmp_path)
    text = (tmp_path / "report/hugePR.md").read_text()
    assert re.search(rf"{large}.*too large.*\| 250,018 \| 250,000 \| 1 \|", text), text
    assert "commit/" in text and "x__y-1" in text and "benchmark" in text


# ------------------------------------------------------------------------------------------- --check, flags, bad input

@pytest.mark.parametrize("harm, said", [
    (lambda root, stem: (root / f"final/{stem}.json").unlink(), "final/{stem}.json is missing"),
    (lambda root, stem: edit(root / f"final/{stem}.json", score=99.0), "final/{stem}.json is out of date"),
    (lambda root, stem: put(root / f"defeat/{stem}.json", get(root / f"final/{stem}.json")), "defeat/{stem}.json lies in the wrong"),
    (lambda root, stem: (root / "export/dpo-train.jsonl").write_text("{}\n"), "export/dpo-train.jsonl is out of date"),
    (lambda root, stem: (root / "report/turns.csv").unlink(), "report/turns.csv is missing"),
    (lambda root, stem: (root / f"answer_0/{stem}.json").write_text("{"), "answer_0/{stem}.json: not a whole JSON document"),
    (lambda root, stem: (root / f"answer_0/{stem}.json").unlink(), "has no answer"),
    (lambda root, stem: edit(root / f"score/{stem}.json", score=12.0), "is not 100 * points / max_points"),
    (lambda root, stem: put(root / f"answer_1/{stem}.json", get(root / f"answer_0/{stem}.json")), "answered twice"),
    (lambda root, stem: rejudge(root, stem, 6), "mended by: python report.py"),
    (lambda root, stem: (root / "prompt/prompts_6_0.json").write_text("[{"), "mended by python prompt.py"),
    (lambda root, stem: (root / "score/_duel.json").write_text(""), "mended by python validate.py"),
])
def test_check_finds_what_is_wrong_and_writes_nothing(tmp_path, checked_run, harm, said):
    root, stem = checked_run, "prompts_6_0_1"
    harm(root, stem)
    before = state(root)
    assert said.format(stem=stem) in report(root, "--check", code=1).stdout
    assert state(root) == before


@pytest.fixture
def checked_run(tmp_path):
    make_run(tmp_path, [54, 42, 6] * 2)
    report(tmp_path)
    report(tmp_path, "--check")
    return tmp_path


def test_limit_is_a_trial_that_touches_no_bucket(tmp_path):
    make_run(tmp_path, [54] * 12)
    report(tmp_path, "--limit", "5")
    assert not any((tmp_path / folder).exists() for folder in (*BUCKETS, "export"))
    assert "first 5 scored turns" in (tmp_path / "report/report.md").read_text()
    assert len(list(csv.DictReader((tmp_path / "report/turns.csv").open()))) == 5
    report(tmp_path, "--limit", "5", "--check", code=2)


def test_missing_input_names_the_stage_that_makes_it(tmp_path):
    done = report(tmp_path, code=2)
    assert "validate.py" in done.stderr and len(done.stderr.splitlines()) <= 2
    make_run(tmp_path, [54])
    for path in (tmp_path / "answer_0").iterdir():
        path.unlink()
    put(tmp_path / "final/prompts_1_0_1.json", {**make_answer(0), "score": 90.0, "metrics": {}, "reason": ""})
    assert "king.py" in report(tmp_path, code=2).stderr
    assert where(tmp_path) == {"prompts_1_0_1": ["final"]}  # an absent answer folder empties no bucket


def test_an_answer_in_any_answer_folder_counts(tmp_path):
    stems = make_run(tmp_path, [54] * 3)
    (tmp_path / "answer_2").mkdir()
    (tmp_path / f"answer_0/{stems[1]}.json").rename(tmp_path / f"answer_2/{stems[1]}.json")
    report(tmp_path)
    assert len(where(tmp_path)) == 3 and f"../answer_2/{stems[1]}.json" in (tmp_path / "report/report.md").read_text()


def test_near_duplicates_are_found_exactly():
    """Against all pairs compared: the shortcut over rare triples may lose none."""
    import report as stage

    rng, turns = random.Random(11), []
    base = [" ".join(rng.choice(WORDS) for _ in range(60)) for _ in range(40)]
    for number in range(120):
        words = rng.choice(base).split()
        for _ in range(rng.randrange(6)):
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        turns.append(stage.Turn(f"t_{number}", None, status="parsed", instance_id="one", points=rng.randrange(50, 60),
                                max_points=MOST, challenger=" ".join(words)))

    def near(one: str, other: str) -> bool:
        a, b = stage._word_triples(one), stage._word_triples(other)
        return len(a & b) / len(a | b) >= stage.NEAR_DUPLICATE_JACCARD

    kept = []
    for turn in sorted(turns, key=lambda turn: (-turn.points, int(turn.stem[2:]))):
        if not any(near(turn.challenger, other.challenger) for other in kept):
            kept.append(turn)
    assert 40 < len(kept) < 110
    assert {turn.stem for turn in stage.drop_near_duplicates(turns)} == {turn.stem for turn in kept}
