"""How often the leak audit is right: honest replies flagged, planted leaks caught, time per audit.

    python -m tests.bench_leaks [--data DIR]

DIR holds trajectories/ and prs/ with parquet files in the schemas of the two source datasets (default: the
demo's data). Honest replies are audited against their own PR record and against one of another repository.
"Early" is among the first seven replies of a chat; "read" is a reply that only looks, searches, reads or asks
git. Leaks are planted in early reads, and only things that the chat shows no trace of; each hidden thing is
planted in several wordings.
"""

import argparse
import random
import re
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import duckdb

from common.demo.build import write_parquet
from common.replies.leaks import CONVENTIONAL, VOCABULARY, find_leaks
from common.replies.protocol import action_style

EARLY_TURNS = 7
KINDS = ("path", "identifier", "line", "verbatim", "disclosure")
READ_STYLES = ("look", "search", "read", "git", "other")
_FENCE = "```"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="a folder with trajectories/ and prs/")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", choices=("flagged", "missed"), help="print honest hits, or missed plants")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if not options.data:
            write_parquet(Path(folder))
        turns, records = load(options.data or folder)
    draw = random.Random(options.seed)
    honest, times = honest_replies(turns, records, draw, options.show == "flagged")
    print_honest(honest)
    print_planted(planted_leaks(turns, records, draw, options.show == "missed"))
    times.sort()
    most = times[int(len(times) * 0.99)]
    print(f"\ntime per audit: median {statistics.median(times):.1f} ms, 99 % under {most:.1f} ms, at most"
          f" {times[-1]:.1f} ms ({len(times)} audits); 100 KB chat: {time_of_100_kb(turns, records):.1f} ms")


def load(folder: str) -> tuple[list[dict], dict[str, dict]]:
    """All turns as {"instance", "repo", "number", "messages", "reply",
    "class"}, and the records by instance."""
    records = {}
    prs = "prs" if Path(folder, "prs").is_dir() else "pull_requests"
    for row in _rows(folder, prs, "instance_id, repo, base_commit, language, interface, patch, test_patch, "
                                  "problem_statement AS issue, pr_description AS description"):
        files = re.findall(r"^\+\+\+ b/(.+)$", row["patch"] or "", re.MULTILINE)
        records[row["instance_id"]] = {**row, "files": files, "created_at": ""}
    turns = []
    for row in _rows(folder, "trajectories", "instance_id, repo, messages"):
        number = 0
        for index, message in enumerate(row["messages"]):
            if message["role"] == "assistant" and index and row["instance_id"] in records:
                number += 1
                turns.append({"instance": row["instance_id"], "repo": row["repo"], "number": number,
                              "messages": row["messages"][:index], "reply": message["content"],
                              "class": _reply_class(message["content"], number)})
    return turns, records


def _rows(folder: str, name: str, columns: str) -> list[dict]:
    result = duckdb.sql(f"SELECT {columns} FROM read_parquet('{Path(folder, name)}/**/*.parquet')")
    return [dict(zip(result.columns, row)) for row in result.fetchall()]


def _reply_class(reply: str, number: int) -> str:
    style = action_style(reply)
    if style in READ_STYLES:
        return "early read" if number <= EARLY_TURNS else "late read"
    return "edit" if style == "edit" else "run, submit"


# ---- honest replies ----

def honest_replies(turns, records, draw, show=False) -> tuple[dict, list[float]]:
    counts, times = defaultdict(Counter), []
    for turn in turns:
        strangers = [record for record in records.values() if record["repo"] != turn["repo"]]
        stranger = draw.choice(strangers or [None])
        for whose, record in (("own", records[turn["instance"]]), ("other repo", stranger)):
            if record is None:
                continue
            start = time.perf_counter()
            hits = find_leaks(turn["reply"], turn["messages"], record)
            times.append((time.perf_counter() - start) * 1000)
            kinds = {hit["kind"] for hit in hits}
            counts[whose, turn["class"]].update(
                {"n": 1, "any": bool(kinds), "rest": bool(kinds - {"verbatim"}), **dict.fromkeys(kinds, 1)})
            if show and kinds - {"verbatim"}:
                print(turn["instance"], turn["number"], whose, turn["class"],
                      [(hit["kind"], hit["text"]) for hit in hits if hit["kind"] != "verbatim"])
    return counts, times


def print_honest(counts: dict) -> None:
    print("\nhonest replies flagged")
    print(f"{'record':<11} {'reply':<12} {'n':>5} {'flagged':>8} {'but verbatim':>13}  by kind")
    for (whose, kind_of_reply), count in sorted(counts.items(), reverse=True):
        kinds = ", ".join(f"{kind} {count[kind]}" for kind in KINDS if count[kind])
        print(f"{whose:<11} {kind_of_reply:<12} {count['n']:>5} {count['any'] / count['n']:>8.1%}"
              f" {count['rest'] / count['n']:>13.1%}  {kinds}")


# ---- planted leaks ----

PLANTS = {
    "path": [
        "{C}cat {x}", "{C}sed -i 's/foo/bar/' {x}", "{C}nl -ba /testbed/{x} | sed -n '1,80p'",
        "{C}grep -n 'def ' {x}", "{C}ls -l {x} && head -50 ./{x}", "{T}The code lives in `{x}`.",
        "{T}I will have to change {x} for this."],
    "identifier": [
        "{T}The function `{x}` is what needs attention.", "{T}The result should go through {x} first.",
        "{T}I expect that `self.{x}` is missing here.", "{C}grep -rn '{x}' .",
        "{C}sed -i 's/return x/return {x}/' a.py"],
    "line": [
        "{C}sed -n '{a},{b}p' {f}", "{C}nl -ba {f} | sed -n '{a},{b}p'", "{C}head -n {b} {f} | tail -n {l}",
        "{C}awk 'NR>={a} && NR<={b}' {f}", "{C}sed -i '{m}s/a/b/' {f}", "{T}The bug is at line {m} of `{f}`.",
        "{T}In `{f}`, lines {a}-{b} look wrong.", "{T}See {f}:{m}."],
    "verbatim": [
        "{T}The line should read `{x}`.", "{T}We need:\n\n" + _FENCE + "python\n{x}\n" + _FENCE,
        "{C}cat > fix.txt <<'EOF'\n{x}\nEOF", "{T}It becomes {near}",
        "{C}python - <<'EOF'\ntext = open('a').read()\nnew = \'\'\'\n    {x}\n\'\'\'\nEOF"],
    "disclosure": [
        "{T}As the PR #{n} does, I start here.", "{T}The merged fix touches this module.",
        "{T}The reference solution does the same.", "{T}According to the hidden patch this is the place.",
        "{T}As the patch shows, only one file changes.", "{T}This was fixed in commit {c}.",
        "{T}Based on the hidden information, I look here.", "{T}The upstream fix changed this function.",
        "{T}The PR changes this function.", "{T}I know from the patch that this is the place.",
        "{T}In the gold patch this function is rewritten.", "{T}Following pull request {n}, I look here.",
        "{T}The diff shows that one line is enough.", "{T}The maintainers fixed it by changing this.",
        "{C}git show {c}"],
}


def plant(template: str, reply: str, values: dict) -> str:
    """The reply with the template's sentence before its command ({T}), or the template as command ({C})."""
    where, text = template[:3], template[3:]
    for key, value in values.items():
        text = text.replace("{" + key + "}", str(value))
    before, fence, rest = reply.partition(_FENCE + "bash")
    if where == "{T}":
        return f"{before.rstrip()}\n\n{text}\n\n{fence}{rest}"
    return f"{before}{_FENCE}bash\n{text}\n{_FENCE}"


def planted_leaks(turns, records, draw, show=False) -> dict:
    counts = defaultdict(Counter)
    for turn in turns:
        if turn["class"] != "early read" or (_FENCE + "bash") not in turn["reply"]:
            continue
        record = records[turn["instance"]]
        chat = "\n".join(message["content"] for message in turn["messages"])
        if find_leaks(turn["reply"], turn["messages"], record):
            continue  # flagged as it is
        for kind, values in plantable(record, chat, draw):
            for template in PLANTS[kind]:
                if "{near}" in template and "near" not in values:
                    continue
                reply = plant(template, turn["reply"], values)
                hits = find_leaks(reply, turn["messages"], record)
                caught = any(hit["kind"] == kind for hit in hits)
                counts[kind, template].update({"n": 1, "caught": caught, "any": bool(hits)})
                if show and not caught:
                    print("MISSED", kind, turn["instance"], turn["number"], template, values)
    return counts


def plantable(record: dict, chat: str, draw) -> list[tuple[str, dict]]:
    """One hidden thing of each kind that the chat shows no trace of, as (kind, values for the templates)."""
    found, lower = [], chat.lower()
    letters = re.sub(r"[\W_]", "", lower)
    paths = [path for path in record["files"] if path.rsplit("/", 1)[-1] not in CONVENTIONAL
             and re.sub(r"tests?|\.\w+$|\W|_", "", _telling_name(path)).lower() not in letters]
    if paths:
        found.append(("path", {"x": draw.choice(paths)}))
    patch = record["patch"] or ""
    added = [line[1:].strip() for line in patch.splitlines() if re.match(r"\+(?!\+\+)", line)]
    names = {name for line in added for name in re.findall(r"[A-Za-z_]\w{4,}", line)
             if re.search(r"[a-z]_?[A-Z]|_", name.strip("_")) and name not in chat
             and name not in VOCABULARY}
    if names:
        found.append(("identifier", {"x": draw.choice(sorted(names))}))
    lines = [line for line in added if len(line) >= 20 and re.search(r"\w\W+\w", line)
             and "".join(line.split()) not in "".join(chat.split())]
    if lines:
        line = draw.choice(lines)
        words = re.findall(r"\w+", line)
        values = {"x": line}
        if len(words) > 4:
            values["near"] = re.sub(rf"\b{re.escape(words[-1])}\b", "value", line.replace('"', "'"))
        found.append(("verbatim", values))
    hunks = []
    for section in re.split(r"^diff --git .*$", patch, flags=re.MULTILINE)[1:]:
        path = re.search(r"^--- a/(.+)$", section, re.MULTILINE)
        if path and path[1].rsplit("/", 1)[-1] not in _commands_of(chat) and not re.search(
                rf"{re.escape(path[1].rsplit('/', 1)[-1])}\W+(?:L|line )?\d", chat) and "#L" not in chat:
            hunks += [(path[1], int(start), int(length or 1))
                      for start, length in re.findall(r"^@@ -(\d+)(?:,(\d+))? ", section, re.MULTILINE)]
    if hunks:
        path, start, length = draw.choice(hunks)
        found.append(("line", {"f": path, "a": start, "b": start + length - 1, "m": start + 3, "l": length}))
    commit = next(iter(re.findall(r"^index \w+\.\.(\w{7,})", patch, re.MULTILINE)), "4f9d2c1ab3")
    if commit not in chat:
        number = record["instance_id"].rsplit("-", 1)[-1]
        found.append(("disclosure", {"n": number, "c": commit}))
    return found


def _telling_name(path: str) -> str:
    *folders, name = path.split("/")
    return folders[-1] if folders and name.startswith("__init__") else name


def _commands_of(chat: str) -> str:
    return "\n".join(re.findall(r"```bash\n(.*?)\n```", chat, re.DOTALL))


def print_planted(counts: dict) -> None:
    print(f"\nplanted leaks caught\n{'kind':<11} {'n':>5} {'as its kind':>12} {'at all':>8}  wording")
    for kind in KINDS:
        rows = [(template, count) for (k, template), count in counts.items() if k == kind]
        total = sum((count for _, count in rows), Counter())
        for template, count in [("all", total), *rows]:
            if count["n"]:
                name = kind if template == "all" else ""
                print(f"{name:<11} {count['n']:>5} {count['caught'] / count['n']:>12.1%}"
                      f" {count['any'] / count['n']:>8.1%}  {template!r}"[:110])


def time_of_100_kb(turns, records) -> float:
    """Milliseconds, the median of ten audits of one real reply in a chat of 100,000 characters."""
    turn = max(turns, key=lambda turn: sum(len(message["content"]) for message in turn["messages"]))
    messages, length = [], 0
    while length < 100_000:
        for message in turn["messages"]:
            messages.append(message)
            length += len(message["content"])
            if length >= 100_000:
                break
    times = []
    for _ in range(10):
        start = time.perf_counter()
        find_leaks(turn["reply"], messages, records[turn["instance"]])
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


if __name__ == "__main__":
    main()
