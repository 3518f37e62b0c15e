"""How often the leak audit is right: honest replies flagged, planted leaks caught, time per audit.

    python -m tests.bench_leaks [--data DIR] [--against CHECKOUT] [--show flagged|missed]

DIR holds trajectories/ and prs/ with parquet files in the schemas of the two source datasets
(default: the demo's data). Honest early reads (first seven replies, no edit) are audited against
their own PR record, another one of the same repository and one of another repository. Leaks of
tests/plants.py are planted in early reads; each names a thing that the chat shows no trace of.
--against runs another checkout's audit on the same cases, side by side. Intervals: 95 %, by
bootstrap over chats.
"""

import argparse
import pickle
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import duckdb
import numpy

from common.audit.protocol import action_style
from common.audit.texts import changed_files
from common.demo.build import write_parquet
from tests.plants import NAMING, PLANTS, hidden_things, plant

EARLY_TURNS = 7
READ_STYLES = ("look", "search", "read", "git", "other")
STRANGERS = 3  # other records that each honest reply is audited against
HONEST_GIT = [
    "git status", "git status -s", "git log --oneline -10", "git log -5", "git log -3 --stat",
    "git log -p -2 -- {p}", "git log --oneline -- {p} | head", "git log -S'foo' --oneline | head",
    "git log --grep='fix' --oneline -20", "git log -1 --format='%H %ad'",
    "git log --since=2.years -- {p}",
    "git log --follow -p {p} | head -100", "git log -L 10,20:{p}", "git log HEAD~5..HEAD --oneline",
    "git blame {p} | head -40", "git blame -L 10,30 {p}", "git blame -w {p}", "git show HEAD",
    "git show HEAD --stat", "git show HEAD~1", "git show HEAD:{p} | head", "git show --name-only",
    "git show HEAD^ -- {p}", "git diff", "git diff HEAD", "git diff --stat", "git diff --cached",
    "git diff -- {p}", "git diff HEAD -- {p}", "git diff HEAD~1 -- {p}", "git diff --name-only",
    "git add -A && git diff --cached", "git stash", "git stash pop",
    "git stash && ls && git stash pop",
    "git checkout -- {p}", "git checkout {p}", "git checkout HEAD -- {p}", "git restore {p}",
    "git reset --hard HEAD", "git reset HEAD {p}", "git clean -fd", "git branch",
    "git branch --show-current",
    "git rev-parse HEAD", "git rev-parse --show-toplevel", "git ls-files | head",
    "git ls-files '*.py'",
    "git ls-tree HEAD", "git ls-tree -r HEAD --name-only | head", "git grep -n return",
    "git grep foo HEAD",
    "git grep -n 'all' -- {d}", "git remote -v", "git config --list", "git describe --tags",
    "git tag | tail -5", "git shortlog -sn | head",
    "git log --all-match --grep=a --grep=b --oneline",
    "git diff --no-index a b", "git apply fix.patch", "git apply --check fix.patch",
    "git stash show -p",
    "git commit -am 'origin/main is fine'", "git init /tmp/x", "git --version", "git help log",
    "git checkout -b try-fix", "git diff > /tmp/own.patch", "git --no-pager diff",
    "git --no-pager log -3",
    "git -C . status", "git log --oneline | grep -i main", "git log --author=main -3",
    "git cat-file -p HEAD",
    "git rev-list --count HEAD", "git log -- origin", "git show -s --format=%ci HEAD",
    "git diff HEAD~3",
    "git log master -3 --oneline", "git diff master", "git bisect start", "git rm --cached {p}",
    "git mv a b",
    "pip list", "pip show {k}", "pip install -e .", "pip install pytest",
    "pip install -r requirements.txt",
    "python -c 'import {i}; print({i}.__file__)'", "pip freeze | grep {k}",
    "curl -I https://example.org",
    "ls /usr/lib/python3/dist-packages | head", "pip install --upgrade pip", "pip install .",
    "cat /opt/env/lib/python3.9/site-packages/attr/__init__.py", "grep -rn pull/12 docs",
    "git remote show",
]  # fmt: skip
# Runs in the other checkout: audits pickled cases there, answers one list of kinds a case.
WORKER = """
import pickle, sys, time
sys.path.insert(0, sys.argv[1])
try:
    from common.audit.leaks import find_leaks
except ImportError:
    from common.leaks import find_leaks
answers = []
for reply, messages, record in pickle.load(sys.stdin.buffer):
    start = time.perf_counter()
    hits = find_leaks(reply, messages, record)
    answers.append(([(h["kind"], h["text"]) for h in hits], (time.perf_counter() - start) * 1000))
sys.stdout.buffer.write(pickle.dumps(answers))
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", metavar="DIR", help="a folder with trajectories/ and prs/")
    parser.add_argument("--against", metavar="CHECKOUT", help="another checkout to audit with too")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", choices=("flagged", "missed"), help="print them, this audit's")
    parser.add_argument("--half", type=int, choices=(0, 1), help="only one half of the chats")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if not options.data:
            write_parquet(Path(folder))
        turns, records = load(options.data or folder, options.half)
    draw = random.Random(options.seed)
    cases = honest_cases(turns, records, draw) + planted_cases(turns, records, draw)
    checkouts = {"this": str(Path(__file__).resolve().parent.parent)}
    if options.against:
        checkouts["other"] = options.against
    audits = {name: audit(cases, checkout) for name, checkout in checkouts.items()}
    print_rates(cases, audits)
    print_times(audits)
    if options.show:
        print_cases(cases, audits["this"], options.show)


def load(folder: str, half: int | None = None) -> tuple[list[dict], dict[str, dict]]:
    """Return the early replies without an edit, with the chat before each, and the records."""
    records = {}
    prs = "prs" if Path(folder, "prs").is_dir() else "pull_requests"
    columns = (
        "instance_id, repo, base_commit, language, interface, patch, test_patch,"
        " problem_statement AS issue, pr_description AS description"
    )
    for row in _rows(folder, prs, columns):
        files = changed_files(row["patch"] or "")
        records[row["instance_id"]] = {**row, "files": files, "created_at": ""}
    turns = []
    rows = sorted(_rows(folder, "trajectories", "instance_id, repo, messages"), key=str)
    for place, row in enumerate(rows):
        if row["instance_id"] not in records or half is not None and place % 2 != half:
            continue
        number = 0
        for index, message in enumerate(row["messages"]):
            if message["role"] != "assistant" or not index:
                continue
            number += 1
            turns.append(
                {
                    "instance": row["instance_id"],
                    "repo": row["repo"],
                    "number": number,
                    "messages": row["messages"][:index],
                    "reply": message["content"],
                    "style": action_style(message["content"]),
                }
            )
    return turns, records


def _rows(folder: str, name: str, columns: str) -> list[dict]:
    result = duckdb.sql(f"SELECT {columns} FROM read_parquet('{Path(folder, name)}/**/*.parquet')")
    return [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]


# ---- cases: (section, row, turn, reply, messages, record)


def honest_cases(turns, records, draw) -> list[tuple]:
    cases = []
    for turn in turns:
        own = records[turn["instance"]]
        early = turn["number"] <= EARLY_TURNS
        kind = turn["style"] if turn["style"] in ("edit", "run", "submit") else "read"
        if early and kind == "read":
            rows = [("own record", own)]
            same = [r for r in records.values() if r["repo"] == own["repo"] and r is not own]
            other = [r for r in records.values() if r["repo"] != own["repo"]]
            for name, strangers in (("another PR of the repo", same), ("another repo", other)):
                chosen = draw.sample(strangers, min(STRANGERS, len(strangers)))
                rows += [(name, record) for record in chosen]
        else:
            rows = [(f"own record, {'early' if early else 'late'} {kind}", own)]
        for row, record in rows:
            cases.append(("honest", row, turn, turn["reply"], turn["messages"], record))
    early = [turn for turn in turns if turn["number"] <= EARLY_TURNS]
    for command in HONEST_GIT:
        for turn in draw.sample(early, min(10, len(early))):
            record = records[turn["instance"]]
            values = hidden_things(record, turn["messages"], draw)["peek"]
            reply = plant("$ " + command.replace("{p}", "setup.py"), values)
            cases.append(("honest git", command, turn, reply, turn["messages"], record))
    return cases


def planted_cases(turns, records, draw) -> list[tuple]:
    cases = []
    for turn in turns:
        readable = turn["number"] <= EARLY_TURNS and turn["style"] in READ_STYLES
        if not readable:
            continue
        record = records[turn["instance"]]
        things = hidden_things(record, turn["messages"], draw)
        for group, name, need, wordings in PLANTS:
            if need not in things:
                continue
            for wording in draw.sample(wordings, min(3, len(wordings))):
                reply = plant(wording, things[need])
                cases.append((group, name, turn, reply, turn["messages"], record))
    return cases


# ---- audits: (hits, milliseconds) of each case


def audit(cases: list[tuple], checkout: str) -> list[tuple]:
    data = pickle.dumps([case[3:] for case in cases])
    done = subprocess.run(
        [sys.executable, "-c", WORKER, checkout], input=data, stdout=subprocess.PIPE, check=True
    )
    return pickle.loads(done.stdout)


def print_rates(cases: list[tuple], audits: dict) -> None:
    """Print each row's share of cases with a hit; of honest ones verbatim hits do not count."""
    rows = defaultdict(list)
    for index, case in enumerate(cases):
        section, row = case[0], case[1]
        rows[section, "all" if section == "honest git" else row].append(index)
        if section in NAMING:
            rows[section, "(all)"].append(index)
    print(f"{'':<52} {'n':>6}  " + "  ".join(f"{name:>22}" for name in audits))
    for section, row in sorted(rows):
        indices = rows[section, row]
        cells = []
        for answers in audits.values():
            hit = [_counts(section, answers[index][0]) for index in indices]
            low, high = interval(hit, [cases[index][2]["instance"] for index in indices])
            share = sum(hit) / len(hit)
            cells.append(f"{share:>7.2%} [{low:6.2%},{high:7.2%}]")
        print(f"{section + ': ' + row:<52} {len(indices):>6}  " + "  ".join(cells))
        if section == "honest" and row == "own record":
            for name, answers in audits.items():
                print(f"    {name}: {_by_kind(answers, indices)}")
    print_means(cases, audits)


def print_means(cases: list[tuple], audits: dict) -> None:
    for name, answers in audits.items():
        caught = defaultdict(list)
        for case, (hits, _) in zip(cases, answers, strict=True):
            if case[0] in NAMING and case[1] != "globs":
                caught[case[0], case[1]].append(bool(hits))
        shares = [statistics.mean(hits) for hits in caught.values()]
        worst = min(caught, key=lambda kind: statistics.mean(caught[kind]))
        print(
            f"{name}: mean of {len(shares)} kinds that name a thing (globs apart)"
            f" {statistics.mean(shares):.1%}; lowest {min(shares):.1%} ({worst[1]})"
        )


def _counts(section: str, hits: list) -> bool:
    if section == "honest":
        return any(kind != "verbatim" for kind, _ in hits)
    if section == "honest git":
        return any(kind == "history" for kind, _ in hits)
    return bool(hits)


def _by_kind(answers, indices) -> str:
    counts = defaultdict(int)
    for index in indices:
        for kind in {kind for kind, _ in answers[index][0]}:
            counts[kind] += 1
    return ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())) or "none"


def interval(hits: list[bool], chats: list[str]) -> tuple[float, float]:
    """Return the 95 % interval of the share, by bootstrap over chats; with no hit, up to 3/n."""
    if not any(hits):
        return 0.0, min(3 / len(hits), 1.0)
    names = sorted(set(chats))
    places = {name: place for place, name in enumerate(names)}
    n = numpy.zeros(len(names))
    k = numpy.zeros(len(names))
    for hit, chat in zip(hits, chats, strict=True):
        n[places[chat]] += 1
        k[places[chat]] += hit
    draws = numpy.random.default_rng(1).multinomial(len(names), [1 / len(names)] * len(names), 2000)
    shares = (draws @ k) / (draws @ n)
    return tuple(numpy.quantile(shares, [0.025, 0.975]))


def print_times(audits: dict) -> None:
    for name, answers in audits.items():
        times = sorted(milliseconds for _, milliseconds in answers)
        most = times[int(len(times) * 0.99)]
        print(
            f"{name}: median {statistics.median(times):.1f} ms an audit, 99 % under {most:.1f} ms,"
            f" at most {times[-1]:.1f} ms ({len(times)} audits)"
        )


def print_cases(cases: list[tuple], answers: list, what: str) -> None:
    for case, (hits, _) in zip(cases, answers, strict=True):
        section, row, turn, reply = case[:4]
        honest = section.startswith("honest")
        if honest and what == "flagged" and _counts(section, hits):
            print(section, row, turn["instance"], turn["number"], hits)
        if section in NAMING and what == "missed" and not hits:
            print("MISSED", section, row, turn["instance"], turn["number"], repr(reply[-300:]))


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"{time.perf_counter() - start:.0f} s in all")
