"""Stage 5: sort the judged turns into buckets, report on the run, and write training files.

Run:     python report.py                  the whole job
         python report.py --with-refined   export/ holds refined/ as well as final/
         python report.py --check          verify all that lies here, write nothing; exit 0 or 1
         python report.py --limit N        a trial: report/ over the first N turns; buckets and export/ stay as they are

Reads:   prompt/ commit/ answer_*/ score/
Writes:  report/report.md    the verdict, the numbers behind it, what to look at, what to run next
         report/turns.csv    every turn
         report/hugePR.md    what was left out, and why
         final/ refined/ defeat/   copies of answers plus score, metrics, reason; a parsed turn lies in exactly one
         export/             sft-*.jsonl, dpo-*.jsonl and a dataset card, for load_dataset("./export") and TRL

What it writes follows from what it reads and from nothing else: an unchanged run rewrites no file. No network, no key.
"""
from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Iterator
from urllib.parse import quote

from common.config import load_config
from common.io import (BadFile, Stop, answer_folders, clean_text, digest, lock_folders, natural_key, read_json,
                       safe_name, set_aside, turn_files, write_text)
from common.records import read_record, record_chars, why_left_out
from common.reply import action_style, protocol_problem
from common.stage import EXIT_SOME_FAILED, Progress, Tally, parser, run

_FINAL_MIN = 80  # score points: from here a turn goes to final/
_DEFEAT_MIN = 66  # below this to defeat/; in between to refined/
BUCKETS = ("final", "refined", "defeat")

VALIDATION_PERCENT = 10  # of the repos, by a hash of their names
NEAR_DUPLICATE_JACCARD = 0.8  # of the sets of word triples of two completions
EXPORT_FILES = ("sft-train.jsonl", "sft-validation.jsonl", "dpo-train.jsonl", "dpo-validation.jsonl")

WHOLE_TABLE_TURNS = 100  # up to here report.md lists every turn; beyond, the best, worst and most disputed
FEW = 10  # a group of fewer turns is marked as few
ANSWER_KEYS = ("instance_id", "king", "challenger", "assistant", "messages", "meta")
SCORE_KEYS = ("stem", "mode", "points", "max_points", "parsed", "status", "metrics", "by_judge", "reason", "sha")
COPY_KEYS = ANSWER_KEYS + ("score", "metrics", "reason")


def main() -> int:
    flags = _flags()
    if not Path("score").is_dir() or not (turn_files("score") or flags.check):
        raise Stop("score/ holds no judged turn: validate.py writes it.\nRun python validate.py, then this again.")
    writer = Writer(check=flags.check)
    held = [] if flags.check else ["report"] if flags.limit else ["report", *BUCKETS]
    with lock_folders([Path(folder) for folder in held], "report") if held else nullcontext():
        tally = Tally("report.py")
        turns = read_turns(flags.limit, tally)
        left_out = read_left_out(load_config().generate.max_record_chars)
        facts = Facts(turns, left_out, read_duel(), read_plan(), flags.limit)
        if not flags.limit:
            export_final(turns, writer, tally)
            export_refined(turns, writer, tally)
            export_defeat(turns, writer, tally)
            remove_unplaced(turns, writer)
            with_refined = flags.with_refined or flags.check and card_says_refined()
            facts.export = export_training(turns, facts, with_refined, writer)
        writer.put("report/turns.csv", turns_csv(facts))
        writer.put("report/hugePR.md", huge_pr(left_out))
        writer.put("report/report.md", report(facts))
        if flags.check:
            return show_check(facts, writer, tally)
        tally.write_failed("report")
    return show_tally(facts, tally)


def _flags():
    flags = parser(__doc__)
    flags.add_argument("--with-refined", action="store_true", help="export refined/ as well as final/")
    flags.add_argument("--check", action="store_true",
                       help="verify answers, scores, buckets and exports; write nothing; exit 0 or 1")
    given = flags.parse_args()
    if given.check and given.limit:
        raise Stop("--check looks at everything: leave out --limit.")
    return given


# ------------------------------------------------------------------------------------------------- what was judged

@dataclass
class Turn:
    """One turn as the report needs it; the chat and the replies stay on disk."""

    stem: str
    path: Path | None = None  # its answer file
    status: str = "no answer"  # parsed | parse-fail | unfinished | stale | not judged | no challenger | broken | no answer
    why: str = ""
    instance_id: str = ""
    repo: str = ""
    points: int = 0  # the challenger's half-points of max_points
    max_points: int = 0
    mode: int = 2  # 2: judged against the king, 1: against the dataset's own reply
    metrics: dict = field(default_factory=dict)
    by_judge: dict = field(default_factory=dict)
    reason: str = ""
    flags: list = field(default_factory=list)
    style: str = ""
    king_style: str = ""
    step: int = 0  # 1 = the first reply of its trajectory
    king_chars: int = 0
    challenger_chars: int = 0
    meta: dict = field(default_factory=dict)
    protocol: str | None = None  # what the challenger breaks of its chat's protocol

    @property
    def score(self) -> float | None:
        return 100 * self.points / self.max_points if self.status == "parsed" else None

    @property
    def bucket(self) -> str | None:
        """Where the turn belongs, in whole numbers, so that 80 is 80. A reply that breaks the protocol of its chat
        never reaches final/, whatever it scored: it is held back in refined/."""
        if self.status != "parsed":
            return None
        if self.points * 100 < _DEFEAT_MIN * self.max_points:
            return "defeat"
        return "final" if self.points * 100 >= _FINAL_MIN * self.max_points and not self.protocol else "refined"

    @property
    def spread(self) -> float:
        """How far the judges are apart, in score points."""
        scores = [score for score in self.by_judge.values() if score is not None]
        return max(scores) - min(scores) if scores else 0.0

    @property
    def opponent(self) -> str:
        return "king" if self.mode == 2 else "assistant"


def _find_answer(stem: str) -> Path | None:
    """The answer file of a turn: the first answer folder, in numeric order, that holds it."""
    for folder in answer_folders():
        if (folder / f"{stem}.json").is_file():
            return folder / f"{stem}.json"
    return None


def read_turns(limit: int | None, tally: Tally) -> list[Turn]:
    """Every answered or scored turn, in natural order; torn files are failures of the tally. Raises Stop."""
    stems = {path.stem for folder in [*answer_folders(), Path("score")] for path in turn_files(folder)}
    if not any(turn_files(folder) for folder in answer_folders()):
        raise Stop("answer_*/ hold no turn: king.py writes them.\nPut them back beside score/, or run python king.py.")
    if limit:
        stems = {path.stem for path in turn_files("score")[:limit]}
    progress, turns = Progress(len(stems), "reading"), []
    for stem in sorted(stems, key=natural_key):
        turns.append(read_turn(stem, tally))
        progress.update(failed=len(tally.failed))
    progress.close()
    return turns


def read_turn(stem: str, tally: Tally) -> Turn:
    """One turn from its answer and its score; what is missing, torn or out of date is said in `status` and `why`."""
    turn = Turn(stem, _find_answer(stem))
    if turn.path is None:
        turn.why = f"score/{stem}.json has no answer in any answer_*/"
        return turn
    try:
        answer = read_answer(turn.path)
        describe_answer(turn, answer)
        if answer["challenger"] is None:
            turn.status = "no challenger"
            return turn
        score = read_score(stem)
    except FileNotFoundError:
        turn.status = "not judged"
    except BadFile as bad:
        turn.status, turn.why = "broken", str(bad)
        mended_by = "validate.py" if bad.path.parent.name == "score" else "king.py"
        tally.fail(stem, f"torn or foreign file, mended by python {mended_by}", str(bad))
    else:
        take_score(turn, answer, score)
    return turn


def read_answer(path: Path) -> dict:
    """An answer file, checked as far as this stage relies on it. Raises BadFile."""
    answer = read_json(path, ANSWER_KEYS)
    messages = answer["messages"]
    if not safe_name(path.stem):
        raise BadFile(path, "a name that no stage of this pipeline gives")
    if not (isinstance(messages, list) and messages and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
            for m in messages)):
        raise BadFile(path, "messages: expected a list of {role, content}")
    for key, kinds in (("instance_id", str), ("king", str), ("assistant", str), ("meta", dict),
                       ("challenger", (str, type(None)))):
        if not isinstance(answer[key], kinds):
            raise BadFile(path, f"{key}: found a {type(answer[key]).__name__}")
    return answer


def read_score(stem: str) -> dict:
    """A score file, checked. Raises FileNotFoundError, BadFile."""
    path = Path("score", f"{stem}.json")
    score = read_json(path, SCORE_KEYS)
    points, most = score["points"], score["max_points"]
    if score["stem"] != stem:
        raise BadFile(path, f"holds the score of {score['stem']!r}")
    if score["parsed"] and not (isinstance(points, int) and isinstance(most, int) and 0 <= points <= most and most):
        raise BadFile(path, f"points {points!r} of {most!r}: expected whole numbers")
    if score["parsed"] and abs(score.get("score", -1) - 100 * points / most) > 1e-6:
        raise BadFile(path, f"score {score.get('score')!r} is not points/max_points = {points}/{most}")
    if score["parsed"] and not isinstance(score["metrics"], dict):
        raise BadFile(path, "metrics: expected one number per metric")
    return score


def describe_answer(turn: Turn, answer: dict) -> None:
    turn.instance_id, turn.meta = answer["instance_id"], answer["meta"]
    turn.repo = str(answer["meta"].get("repo") or "")
    turn.step = 1 + sum(message["role"] == "assistant" for message in answer["messages"])
    turn.king_style, turn.king_chars = action_style(answer["king"]), len(answer["king"])
    if answer["challenger"] is not None:
        turn.style, turn.challenger_chars = action_style(answer["challenger"]), len(answer["challenger"])
        turn.protocol = protocol_problem(answer["challenger"], answer["messages"])


def take_score(turn: Turn, answer: dict, score: dict) -> None:
    """Take over what the judges said, unless they judged other texts than the answer holds now."""
    turn.mode = score["mode"]
    now, judged = judged_texts(answer), score["sha"] or {}
    changed = [name for name in ("chat", "challenger", turn.opponent) if judged.get(name) != now[name]]
    if changed:
        turn.status, turn.why = "stale", f"judged before its {' and '.join(changed)} changed"
        return
    turn.status = "parsed" if score["parsed"] else str(score["status"])
    turn.points, turn.max_points = score["points"] or 0, score["max_points"] or 0
    turn.metrics, turn.by_judge = score["metrics"] or {}, score["by_judge"] or {}
    turn.reason, turn.flags = str(score["reason"] or ""), list(score.get("flags") or [])


def judged_texts(answer: dict) -> dict[str, str]:
    """Digests of the texts that a verdict rests on, as validate.py stores them in a score's `sha`."""
    return {"chat": digest(*(part for m in answer["messages"] for part in (m["role"], m["content"]))),
            **{side: digest(answer[side] or "") for side in ("king", "challenger", "assistant")}}


# ---------------------------------------------------------------------------------------------------------- writing

@dataclass
class Writer:
    """Puts files in place, each whole or not at all, and leaves alone what is right already.

    With `check` nothing is written: what would have been is noted in `stale`.
    """

    check: bool = False
    stale: list[str] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)

    def put(self, path: Path | str, text: str) -> None:
        path, text = Path(path), clean_text(text)
        try:
            if path.read_bytes() == text.encode("utf-8"):
                return
            why = "is out of date"
        except FileNotFoundError:
            why = "is missing"
        if self.check:
            self.stale.append(f"{path} {why}")
        else:
            write_text(path, text)

    def put_lines(self, path: Path | str, lines: Iterable[str]) -> int:
        """Like `put`, for a file that need not fit into memory; returns the number of lines."""
        path, count, hasher = Path(path), 0, hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(os.devnull) if self.check else path.with_name(f".{path.name}.report.tmp")
        with open(temporary, "wb") as file:
            for line in lines:
                data = clean_text(line).encode("utf-8") + b"\n"
                hasher.update(data)
                file.write(data)
                count += 1
            file.flush()
            if not self.check:
                os.fsync(file.fileno())
        same = path.is_file() and _sha256(path) == hasher.hexdigest()
        if self.check:
            self.stale += [] if same else [f"{path} is {'out of date' if path.is_file() else 'missing'}"]
        elif same:
            temporary.unlink()
        else:
            os.replace(temporary, path)
        return count

    def remove(self, path: Path, why: str) -> None:
        if self.check:
            self.stale.append(f"{path} {why}")
        else:
            path.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


# ---------------------------------------------------------------------------------------------------------- buckets

def export_final(turns: list[Turn], writer: Writer, tally: Tally) -> None:
    """final/: what the panel reliably prefers, and what keeps its chat's protocol."""
    _export("final", turns, writer, tally)


def export_refined(turns: list[Turn], writer: Writer, tally: Tally) -> None:
    """refined/: preferred, less clearly; and what would be final but breaks the protocol."""
    _export("refined", turns, writer, tally)


def export_defeat(turns: list[Turn], writer: Writer, tally: Tally) -> None:
    """defeat/: the rest of what was judged."""
    _export("defeat", turns, writer, tally)


def _export(bucket: str, turns: list[Turn], writer: Writer, tally: Tally) -> None:
    """Copy the bucket's turns into its folder, then take each out of the other two: a kill between the two leaves a
    turn in both for the next run to mend, never in none."""
    chosen = [turn for turn in turns if turn.bucket == bucket]
    progress = Progress(len(chosen), f"{bucket}/")
    for turn in chosen:
        copy = read_answer(turn.path)
        reason = turn.reason
        if turn.protocol and turn.points * 100 >= _FINAL_MIN * turn.max_points:
            reason = f"Held back from final/: {turn.protocol}. {reason}"
        copy.update(score=turn.score, metrics=turn.metrics, reason=reason)
        path = Path(bucket, f"{turn.stem}.json")
        if path.exists() and not _is_ours(path):
            writer.remove(path, "is not a copy that report.py made") if writer.check else \
                writer.aside.append(str(set_aside(path)))
        writer.put(path, json.dumps(copy, ensure_ascii=False, indent=1) + "\n")
        for other in BUCKETS:
            if other != bucket:
                _remove_copy(Path(other, path.name), writer)
        tally.done += 1
        progress.update()
    progress.close()


def remove_unplaced(turns: list[Turn], writer: Writer) -> None:
    """Take out of all buckets what is no longer a judged turn. A copy whose answer is gone may be the last one: it stays."""
    for turn in turns:
        if turn.bucket is None and turn.path is not None:
            for bucket in BUCKETS:
                _remove_copy(Path(bucket, f"{turn.stem}.json"), writer)


def _remove_copy(path: Path, writer: Writer) -> None:
    if path.exists() and _is_ours(path):
        writer.remove(path, "lies in the wrong bucket")


def _is_ours(path: Path) -> bool:
    """Whether a file is a copy that this stage wrote, by what it holds."""
    try:
        read_json(path, COPY_KEYS)
    except (BadFile, OSError):
        return False
    return True


# ---------------------------------------------------------------------------------------------------- training files

@dataclass
class Export:
    """What went into export/, for the report and the card."""

    buckets: list[str]
    rows: dict[str, int] = field(default_factory=dict)  # file name -> rows
    duplicates: int = 0
    held_back: int = 0
    repos: dict[str, int] = field(default_factory=dict)  # split -> repos


def export_training(turns: list[Turn], facts: Facts, with_refined: bool, writer: Writer) -> Export:
    """export/: training files in TRL's formats, and the dataset card last, so that it never speaks of files to come."""
    buckets = ["final", "refined"] if with_refined else ["final"]
    candidates = [turn for turn in turns if turn.bucket in buckets]
    kept = [turn for turn in candidates if not turn.protocol]
    chosen = drop_near_duplicates(kept)
    export = Export(buckets, held_back=len(candidates) - len(kept), duplicates=len(kept) - len(chosen))
    for split in ("train", "validation"):
        part = [turn for turn in chosen if split_of(turn.repo) == split]
        export.repos[split] = len({turn.repo for turn in part})
        for name, row_of in ((f"sft-{split}.jsonl", sft_row), (f"dpo-{split}.jsonl", dpo_row)):
            rows = (row_of(turn, read_answer(turn.path)) for turn in part)
            lines = (json.dumps(row, ensure_ascii=False) for row in rows if row)
            path = Path("export", name)
            if part:
                export.rows[name] = writer.put_lines(path, lines)
            elif path.exists():
                writer.remove(path, "holds rows that are no longer chosen")  # `datasets` cannot open an empty file
    facts.export = export
    writer.put("export/README.md", dataset_card(facts, export))
    return export


def split_of(repo: str) -> str:
    """`train` or `validation`, by a hash of the repo's name alone: growing the data never moves a turn across."""
    share = int.from_bytes(hashlib.sha256(repo.lower().encode()).digest()[:8], "big") / 2**64
    return "validation" if share * 100 < VALIDATION_PERCENT else "train"


def sft_row(turn: Turn, answer: dict) -> dict:
    """TRL's conversational prompt-completion."""
    return {"prompt": _prompt(answer), "completion": _said(answer["challenger"]), **_about(turn)}


def dpo_row(turn: Turn, answer: dict) -> dict:
    """TRL's conversational preference with an explicit prompt: the challenger over the reply that it won against."""
    return {"prompt": _prompt(answer), "chosen": _said(answer["challenger"]), "rejected": _said(answer[turn.opponent]),
            **_about(turn)}


def _prompt(answer: dict) -> list[dict]:
    return [{"role": message["role"], "content": message["content"]} for message in answer["messages"]]


def _said(reply: str) -> list[dict]:
    return [{"role": "assistant", "content": reply}]


def _about(turn: Turn) -> dict:
    """The same keys and types in every row: `datasets` takes the schema from the first rows alone."""
    challenger = turn.meta.get("challenger") or {}
    about = {"bucket": turn.bucket, "points": turn.points, "max_points": turn.max_points, "metrics": turn.metrics,
             "by_judge": turn.by_judge, "judged_against": "king" if turn.mode == 2 else "reference",
             "style": turn.style, "step": turn.step, "model": challenger.get("model"),
             "source": turn.meta.get("source")}
    return {"instance_id": turn.instance_id, "repo": turn.repo, "stem": turn.stem, "score": float(turn.score),
            "meta": json.dumps(about, ensure_ascii=False, sort_keys=True)}


def drop_near_duplicates(turns: list[Turn]) -> list[Turn]:
    """The turns without those whose completion nearly repeats a better-scored one of the same instance.

    Near: the sets of word triples overlap by NEAR_DUPLICATE_JACCARD or more (Jaccard). Only pairs that share one of
    their rarest triples are compared (prefix filter of Bayardo, Ma, Srikant: Scaling Up All Pairs Similarity Search,
    2007): exact, and quick when one instance holds thousands of turns.
    """
    by_instance = defaultdict(list)
    for turn in turns:
        by_instance[turn.instance_id].append(turn)
    kept = set()
    for group in by_instance.values():
        group.sort(key=lambda turn: (-turn.points / turn.max_points, natural_key(turn.stem)))
        if len(group) == 1:
            kept.add(group[0].stem)
            continue
        triples = {turn.stem: _word_triples(read_answer(turn.path)["challenger"]) for turn in group}
        frequency = Counter(triple for each in triples.values() for triple in each)
        holders = defaultdict(list)  # rare triple -> kept sets that have it among their rarest
        for turn in group:
            own = triples[turn.stem]
            rarest = sorted(own, key=frequency.__getitem__)
            rarest = rarest[:len(own) - int(NEAR_DUPLICATE_JACCARD * len(own)) + 1]
            near = {id(other): other for triple in rarest for other in holders[triple]}.values()
            if any(len(own & other) >= NEAR_DUPLICATE_JACCARD * len(own | other) for other in near):
                continue
            kept.add(turn.stem)
            for triple in rarest:
                holders[triple].append(own)
    return [turn for turn in turns if turn.stem in kept]


def _word_triples(text: str) -> set[int]:
    """Hashes of the runs of three words, case and punctuation aside."""
    words = re.findall(r"\w+", text.lower())
    return {hash(tuple(words[start:start + 3])) for start in range(max(1, len(words) - 2))}


# ------------------------------------------------------------------------------------------- what else there is to say

@dataclass
class Facts:
    """All that the report and the card speak of."""

    turns: list[Turn]
    left_out: LeftOut
    duel: dict | None  # score/_duel.json
    plan: dict  # prompt/_plan.json
    limit: int | None
    export: Export | None = None

    @property
    def parsed(self) -> list[Turn]:
        return [turn for turn in self.turns if turn.status == "parsed"]

    @property
    def mode(self) -> int:
        judged = [turn.mode for turn in self.parsed]
        return judged[0] if judged else int((self.duel or {}).get("mode") or 2)

    @property
    def opponent(self) -> str:
        return "king" if self.mode == 2 else "reference"

    def duel_is_stale(self) -> str:
        """Why score/_duel.json speaks of other scores than those that lie here; empty when it speaks of these."""
        if self.duel is None or self.limit:
            return ""
        statuses = Counter(turn.status for turn in self.turns)
        counted = self.duel.get("turns") or {}
        if self.duel.get("mode") != self.mode:
            return f"it is of DUEL_MODE={self.duel.get('mode')}, the scores are of DUEL_MODE={self.mode}"
        if statuses["stale"]:
            return f"{statuses['stale']} of its turns have changed since they were judged"
        if counted.get("parsed") != statuses["parsed"]:
            return f"it counts {counted.get('parsed')} parsed turns, here are {statuses['parsed']}"
        mean = self.duel.get("mean_score")
        if self.parsed and mean is not None and abs(mean - _mean(turn.score for turn in self.parsed)) > 0.01:
            return f"it gives a mean score of {mean:.2f}, here it is {_mean(t.score for t in self.parsed):.2f}"
        return ""


@dataclass
class LeftOut:
    """Prompts that never became turns, by instance."""

    prompts: dict[str, tuple[str, str]] = field(default_factory=dict)  # stem -> (instance, repo), of every prompt
    too_large: list[dict] = field(default_factory=list)  # instance_id, repo, why, record_chars, patch_chars, prompts
    excluded: list[dict] = field(default_factory=list)  # the plan's: instance_id, repo, reason
    no_record: list[dict] = field(default_factory=list)  # instance_id, repo, why, prompts

    def stems(self) -> set[str]:
        out = {row["instance_id"] for row in [*self.too_large, *self.no_record]}
        return {stem for stem, (instance, _) in self.prompts.items() if instance in out}


def read_plan() -> dict:
    try:
        plan = read_json("prompt/_plan.json")
    except (FileNotFoundError, BadFile):
        return {}
    return plan if isinstance(plan, dict) else {}


def read_duel() -> dict | None:
    """score/_duel.json; None when there is none. Raises BadFile."""
    try:
        return read_json("score/_duel.json", ("mode", "accepted", "why", "turns"))
    except FileNotFoundError:
        return None


def read_left_out(max_record_chars: int) -> LeftOut:
    """What prompt.py and king.py passed over; sizes in characters of what the challenger's prompt would have held."""
    left_out, prompts_of = LeftOut(), Counter()
    for path in turn_files("prompt"):
        for place, prompt in enumerate(_list_of_dicts(read_json(path)), start=1):
            instance, repo = str(prompt.get("instance_id") or ""), str(prompt.get("repo") or "")
            left_out.prompts[f"{path.stem}_{place}"] = instance, repo
            prompts_of[instance] += 1
    for instance, repo in dict(left_out.prompts.values()).items():
        row = {"instance_id": instance, "repo": repo, "prompts": prompts_of[instance]}
        try:
            record = read_record(instance) if safe_name(instance) else None
            why = why_left_out(record, max_record_chars) if record else "a name that cannot be a file name"
        except (Stop, BadFile) as missing:
            record, why = None, str(missing).split("\n")[0]
        if record is None:
            left_out.no_record.append({**row, "why": why})
        elif why:
            left_out.too_large.append({**row, "why": why, "record_chars": record_chars(record),
                                       "patch_chars": len(record["patch"] or "")})
    left_out.too_large.sort(key=lambda row: (-row["record_chars"], row["instance_id"]))
    left_out.excluded = _list_of_dicts(read_plan().get("excluded"))
    return left_out


def _list_of_dicts(value: object) -> list[dict]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def failed_items() -> list[dict]:
    """The _failed.jsonl of the stages' last runs."""
    rows = []
    for folder in [*answer_folders(), Path("prompt"), Path("score")]:
        for path in sorted(folder.glob("_failed*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    rows += _list_of_dicts([json.loads(line)])
                except ValueError:
                    continue
    return rows


# ------------------------------------------------------------------------------------------------- text for Markdown

def shown(text: object, limit: int = 200) -> str:
    """Text from outside as one line that Markdown, HTML, GitHub's math and its @mentions leave as it is."""
    line = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else "" if unicodedata.category(c) == "Cf" else c
                   for c in clean_text(str(text))[:4 * limit])
    line = " ".join(line.split())
    line = line if len(line) <= limit else line[:limit - 1] + "…"
    line = re.sub(r"([\\`*\[\]|~])", r"\\\1", line)
    line = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)  # inside a word it marks nothing
    line = re.sub(r"^([#+=-])", r"\\\1", re.sub(r"^(\d+)([.)])", r"\1\\\2", line))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("$", "&#36;")
    line = re.sub(r"(https?|ftp):(?=//)", r"\1&#58;", line, flags=re.IGNORECASE)
    return re.sub(r"\bwww\.", "www&#46;", line, flags=re.IGNORECASE).replace("@", "@\u2060")


def table(headers: str, rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; a header that ends in `#` heads a column of numbers. Cells are Markdown already."""
    names = [name.strip() for name in headers.split("|")]
    lines = [[name.rstrip("# ") for name in names], ["---:" if name.endswith("#") else "---" for name in names],
             *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def number(value: float | int | None, digits: int = 1) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def percent(part: float | None, whole: float = 1) -> str:
    return "–" if part is None or not whole else f"{100 * part / whole:.0f} %"


def count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0


# ------------------------------------------------------------------------------------------------------- report.md

def report(facts: Facts) -> str:
    """report.md, for a reader in a hurry: each part is one function, in the order of the page."""
    parts = [verdict, numbers, score_chart, points_to_look_at, judges, metrics, groups, leak_audit, unfinished,
             turn_tables]
    return "\n\n".join(text.strip() for part in parts if (text := part(facts))) + "\n"


def verdict(facts: Facts) -> str:
    duel, opponent = facts.duel, facts.opponent
    notes = []
    if facts.limit:
        notes.append(f"A trial: only the first {count(len(facts.turns), 'scored turn')} are looked at below (`--limit`). "
                     "The verdict is of the whole run; `final/ refined/ defeat/ export/` were left as they are.")
    if duel is None:
        head = "no verdict yet"
        notes.append("`score/_duel.json` is missing: run `python validate.py`, then `python report.py`.")
    else:
        head = {True: "accepted", False: "not accepted"}.get(duel["accepted"], "no verdict")
        notes.append(f"**{head.capitalize()}.** {shown(duel['why'], 600)}")
    if stale := facts.duel_is_stale():
        notes.append(f"**This verdict is out of date:** {shown(stale)}. "
                     "Run `python validate.py`, then `python report.py`.")
    return f"# Challenger against {opponent}: {head}\n\n" + "\n\n".join(notes)


def numbers(facts: Facts) -> str:
    duel, plan, parsed = facts.duel or {}, facts.plan, facts.parsed
    statuses = Counter(turn.status for turn in facts.turns)
    buckets = Counter(turn.bucket for turn in parsed)
    answered = [turn for turn in facts.turns if turn.path]
    low, high = (duel.get("interval") or [None, None])[:2]
    config = (duel.get("config") or {}).get("duel") or duel
    rows = [
        ("turns", f"{len(answered):,} answered, **{len(parsed):,} parsed**"
         + "".join(f", {statuses[name]:,} {name}" for name in
                   ("parse-fail", "unfinished", "not judged", "no challenger", "stale", "broken") if statuses[name])),
        ("instances", f"{len({t.instance_id for t in parsed}):,} in {count(len({t.repo for t in parsed}), 'repo')} "
         "(parsed turns)"),
        ("mean score", f"**{number(duel.get('mean_score'))}** of 100, interval {number(low)} to {number(high)} "
         f"(50 = level with the {facts.opponent})" if duel else "–"),
        ("margin", f"{number(duel.get('margin'))} points (challenger − {facts.opponent}), "
         f"{number(duel.get('win_margin'))} asked for; lower bound of the mean {number(duel.get('lcb'), 3)}, "
         f"above 0 asked for at alpha {duel.get('alpha', '–')}" if duel else "–"),
        ("buckets", ", ".join(f"[{name}/](../{name}) {buckets[name]:,} ({percent(buckets[name], len(parsed))})"
                              for name in BUCKETS)
         + f"; from {_FINAL_MIN} points final, below {_DEFEAT_MIN} defeat"),
        ("export", export_words(facts.export) if facts.export else "left as it is"),
        ("cost", costs(facts)),
        ("written by", models_words(facts)),
        ("judged by", ", ".join(shown(judge) for judge in duel.get("judges") or _judges(facts)) or "–"),
        ("dataset", shown(f"{dataset_name(plan)}, revision {plan.get('revision') or 'not known'}, "
                          f"seed {plan.get('seed', 'not known')}") if plan else "prompt/\\_plan.json is missing"),
        ("judged at", shown(duel.get("made_at") or "–")),
    ]
    return "## The numbers that matter\n\n" + table(" | ", rows)


def export_words(export: Export) -> str:
    rows = ", ".join(f"[{name}](../export/{name}) {n:,}" for name, n in export.rows.items()) or "no row yet"
    dropped = f"; {count(export.duplicates, 'near-duplicate')} dropped"
    held = f"; {export.held_back:,} held back for breaking the protocol" if export.held_back else ""
    return rows + dropped + held


def costs(facts: Facts) -> str:
    """Dollars by side where every price is known; tokens otherwise too."""
    parts = []
    for side in ("king", "challenger"):
        replies = [meta for turn in facts.turns if isinstance(meta := turn.meta.get(side), dict)]
        parts.append(f"{side} {_spent([reply.get('cost_usd') for reply in replies])}, "
                     f"{_tokens([reply.get('usage') for reply in replies])}")
    if facts.duel:
        parts.append(f"judges {_spent([facts.duel.get('cost_usd')])}, {_tokens([facts.duel.get('usage')])}")
    return "; ".join(parts)


def _spent(prices: list) -> str:
    known = [price for price in prices if price is not None]
    if not known:
        return "price not known"
    return f"{sum(known):,.2f} USD" + (f" (for {len(known):,} of {len(prices):,})" if len(known) < len(prices) else "")


def _tokens(usages: list) -> str:
    total = Counter()
    for usage in usages:
        total.update({key: n for key, n in (usage or {}).items() if isinstance(n, int)})
    return f"{total['prompt_tokens']:,} tokens in, {total['completion_tokens']:,} out"


def models_words(facts: Facts) -> str:
    words = []
    for side in ("king", "challenger"):
        names = Counter(str(meta.get("model")) for turn in facts.turns if isinstance(meta := turn.meta.get(side), dict))
        words.append(f"{side} " + (", ".join(shown(name) for name in names) or "not known"))
    return "; ".join(words)


def dataset_name(plan: dict) -> str:
    """The dataset as one may publish it: a Hub id, or of a local path only its last part."""
    name = str(plan.get("dataset") or "not known")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists():
        return name
    return f"local files {Path(name).name}" if "/" in name else name


def _judges(facts: Facts) -> list[str]:
    return list(dict.fromkeys(judge for turn in facts.parsed for judge in turn.by_judge))


# Score ranges of the histogram, best first: (from, up to but without). 100 falls into the first.
_RANGES = ((90, 101), (80, 90), (70, 80), (66, 70), (60, 66), (50, 60), (40, 50), (30, 40), (20, 30), (10, 20), (0, 10))


def score_chart(facts: Facts) -> str:
    """Mermaid for viewers that draw it, and the same as text."""
    turns = sorted(facts.parsed, key=lambda turn: -turn.score)
    if not turns:
        return "## Scores\n\nNo turn is parsed yet."
    in_range = [sum(low * t.max_points <= 100 * t.points < high * t.max_points for t in turns) for low, high in _RANGES]
    widest, lines = max(in_range), []
    for (low, high), n in zip(_RANGES, in_range):
        bar = "█" * round(30 * n / widest) or ("▏" if n else "")
        lines.append(f"{low:>3} to {min(high, 100):<3}  {n:>6}  {bar}".rstrip())
        if low in (_FINAL_MIN, _DEFEAT_MIN):
            lines.append(f"--- {low} {'final above' if low == _FINAL_MIN else 'refined above, defeat below'} "
                         .ljust(48, "-"))
    text = "```text\nscore        turns\n" + "\n".join(lines) + "\n```"
    drawn = min(len(turns), 50)  # a bar each for small runs, quantiles beyond
    heights = [turns[int((place + 0.5) * len(turns) / drawn)].score for place in range(drawn)]
    axis = "turns, best first" if drawn == len(turns) else f"{len(turns):,} turns, best first ({drawn} of them drawn)"
    chart = "\n".join([
        "```mermaid",
        '%%{init: {"themeVariables": {"xyChart": {"plotColorPalette": "#8fb3d9, #2e8b57, #c0392b"}}}}%%',
        "xychart-beta",
        f'  title "Score of each turn; lines at {_FINAL_MIN} (final) and {_DEFEAT_MIN} (refined)"',
        f'  x-axis "{axis}" 1 --> {len(turns)}',
        '  y-axis "score" 0 --> 100',
        f"  bar [{', '.join(f'{height:.1f}' for height in heights)}]",
        f"  line [{', '.join([str(_FINAL_MIN)] * drawn)}]",
        f"  line [{', '.join([str(_DEFEAT_MIN)] * drawn)}]",
        "```"])
    return "## Scores\n\n" + (f"{chart}\n\n" if drawn > 1 else "") + text


# What a point to look at is raised for. Chosen to speak up early: each only asks for a look.
_FEW_INSTANCES = 20  # below, even resampling instances holds its level only roughly
_LOW_PARSE_RATE = 0.95
_LOW_CONSISTENCY = 0.5  # GPT-4 in MT-Bench: 0.65; a coin among three calls: 0.33
_STRONG_PULL = 0.15  # the pull at which a one-order duel of equals is accepted in 8 of 10 cases
_LENGTH_GAP = 15  # score points between longer and shorter challengers
_MANY_IDENTICAL = 0.1


def points_to_look_at(facts: Facts) -> str:
    """Whether to trust the run and what to change: only what these figures give reason for."""
    duel, points = facts.duel or {}, []
    parsed, instances = facts.parsed, len({turn.instance_id for turn in facts.parsed})
    if instances < _FEW_INSTANCES:
        points.append(f"**Few instances.** The scores rest on {count(instances, 'instance')}; under {_FEW_INSTANCES} the "
                      "interval is rough. More prompts: `python prompt.py --count N`.")
    fraction = duel.get("parsed_frac")
    if fraction is not None and fraction < _LOW_PARSE_RATE:
        points.append(f"**Turns without a full verdict.** {percent(fraction)} of the answered turns are parsed. "
                      "See *What is not done* below.")
    for judge, row in (duel.get("judges") or {}).items():
        name = shown(judge)
        if _below(row.get("parse_rate"), _LOW_PARSE_RATE):
            points.append(f"**{name} is often unreadable** ({percent(row['parse_rate'])} parsed). A larger max_tokens in "
                          "chain.toml's override of this judge often mends it.")
        if _below(row.get("position_consistency"), _LOW_CONSISTENCY):
            points.append(f"**{name} is unsteady**: it makes the same call in both orders in only "
                          f"{percent(row['position_consistency'])} of cases. Both orders are averaged, so this costs "
                          "sharpness, not fairness; consider another judge.")
        if abs(row.get("pull") or 0) > _STRONG_PULL:
            points.append(f"**{name} is pulled toward the {'second' if row['pull'] > 0 else 'first'} reply** "
                          f"({row['pull']:+.2f} of −1 to 1). Both orders are averaged, which cancels it.")
    for judge, row in (duel.get("leave_one_out") or {}).items():
        if row.get("accepted") != duel.get("accepted"):
            points.append(f"**The verdict hangs on {shown(judge)}**: without it the run would be "
                          f"{_accepted_words(row.get('accepted'))}.")
    alone = duel.get("without_generator")
    if alone and alone.get("accepted") != duel.get("accepted"):
        points.append("**The writer's own model decides**: the panel without it would say "
                      f"{_accepted_words(alone.get('accepted'))}.")
    identical = (duel.get("turns") or {}).get("identical") or 0
    if parsed and identical > _MANY_IDENTICAL * len(parsed):
        points.append(f"**{count(identical, 'turn')} with identical replies** count as draws and pull the mean to 50.")
    longer, shorter = _by_length(parsed)
    if min(len(longer), len(shorter)) >= FEW and abs(gap := _mean(t.score for t in longer)
                                                    - _mean(t.score for t in shorter)) > _LENGTH_GAP:
        points.append(f"**Length and score go together**: longer challengers score {gap:+.0f} points against shorter "
                      "ones. It may be merit; read a few of both.")
    if flagged := [turn for turn in facts.turns if turn.flags]:
        points.append(f"**{count(len(flagged), 'turn')} with text that speaks to the judges** (flags in turns.csv), such "
                      f"as {link(flagged[0])}: {shown(', '.join(map(str, flagged[0].flags)))}.")
    if leaking := [turn for turn in parsed if turn.bucket == "final" and leaks_of(turn, "challenger")]:
        points.append(f"**{count(len(leaking), 'turn')} in final/ with leak hits**, such as {link(leaking[0])}. "
                      "`python ch.py` audits stored replies again and reopens those that fail.")
    if held := [turn for turn in parsed if turn.protocol]:
        points.append(f"**{count(len(held), 'parsed turn')} whose challenger breaks the protocol** of its chat, such as "
                      f"{link(held[0])}: {shown(held[0].protocol)}. None is in final/ or export/.")
    return "## Points to look at\n\n" + ("\n".join(f"- {point}" for point in points) or
                                         "Nothing in these figures stands out.")


def _below(value: float | None, least: float) -> bool:
    return value is not None and value < least


def _accepted_words(accepted: bool | None) -> str:
    return {True: "accepted", False: "not accepted"}.get(accepted, "too small to tell")


def _by_length(turns: list[Turn]) -> tuple[list[Turn], list[Turn]]:
    """Turns whose challenger is longer than the king, and those where it is shorter (by over a tenth)."""
    return ([turn for turn in turns if turn.challenger_chars > 1.1 * turn.king_chars],
            [turn for turn in turns if turn.king_chars > 1.1 * turn.challenger_chars])


def judges(facts: Facts) -> str:
    duel = facts.duel
    if not duel or not duel.get("judges"):
        return ""
    rows = []
    for judge, row in duel["judges"].items():
        left = (duel.get("leave_one_out") or {}).get(judge) or {}
        rows.append((shown(judge), number(row.get("score")), percent(row.get("parse_rate")),
                     percent(row.get("position_consistency")),
                     "–" if row.get("pull") is None else f"{row['pull']:+.2f}", number(row.get("agreement"), 2),
                     number(left.get("mean_score")) + (f", {_accepted_words(left['accepted'])}" if left else ""),
                     number(row.get("calls")), _spent([row.get("cost_usd")])))
    agreement = duel.get("agreement") or {}
    lines = [table("judge | score # | parsed # | same in both orders # | pull # | agreement # | panel without it | "
                   "calls # | cost #", rows),
             "Score: the challenger's, by this judge alone. Pull: from −1 (always the first reply shown) to +1 (always the "
             f"second). Agreement of the panel: {shown(agreement.get('name') or 'not stated')} "
             f"{number(agreement.get('value'), 2)} (0 = chance, 1 = all say the same)."]
    if alone := duel.get("without_generator"):
        lines.append(f"The panel without the writer's own model: mean score {number(alone.get('mean_score'))}, "
                     f"margin {number(alone.get('margin'))}, {_accepted_words(alone.get('accepted'))}.")
    if retest := duel.get("retest"):
        lines.append("Judged again with a fresh draw: " + "; ".join(
            f"{shown(key.replace('_', ' '))} {shown(number(value, 2) if isinstance(value, (int, float)) else value)}"
            for key, value in retest.items() if not isinstance(value, (dict, list))) + ".")
    return "## Judges\n\n" + "\n\n".join(lines)


def metrics(facts: Facts) -> str:
    names = _metric_names(facts)
    if not names:
        return ""
    of_duel = (facts.duel or {}).get("metrics") or {}
    rows = []
    for name in names:
        values = [turn.metrics[name] for turn in facts.parsed if turn.metrics.get(name) is not None]
        ahead, behind = sum(value > 50 for value in values), sum(value < 50 for value in values)
        mean = of_duel.get(name, _mean(values))
        rows.append((shown(name), number(mean), ahead, len(values) - ahead - behind, behind, "█" * round(mean / 5)))
    return "## Metrics\n\n" + table("metric | mean score # | turns ahead # | level # | behind # | 0 to 100", rows)


def _metric_names(facts: Facts) -> list[str]:
    return list((facts.duel or {}).get("metrics") or next((turn.metrics for turn in facts.parsed), {}))


_STEPS = ((1, 1), (2, 3), (4, 6), (7, 10), (11, 15), (16, 10**9))
_REPOS_SHOWN = 15


def groups(facts: Facts) -> str:
    """Score by kind of turn: shows where the challenger wins, not why."""
    parsed, opponent = facts.parsed, facts.opponent
    if not parsed:
        return ""
    longer, shorter = _by_length(parsed)
    alike = len(parsed) - len(longer) - len(shorter)
    by_style, by_repo = defaultdict(list), defaultdict(list)
    for turn in parsed:
        by_style[turn.style].append(turn)
        by_repo[turn.repo].append(turn)
    steps = [(f"reply {low}" if low == high else f"replies {low} to {high}" if high < 10**9 else f"reply {low} and later",
              [turn for turn in parsed if low <= turn.step <= high]) for low, high in _STEPS]
    repos = sorted(by_repo.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = ["## Where it wins",
             f"A group of fewer than {FEW} turns is marked *few*: its mean may well be chance.",
             "### By action style of the challenger",
             _group_table("style", sorted(by_style.items(), key=lambda item: (-len(item[1]), item[0]))),
             "### By position in the trajectory", _group_table("position", [step for step in steps if step[1]]),
             "### By repo", _group_table("repo", repos[:_REPOS_SHOWN])
             + (f"\n{len(repos) - _REPOS_SHOWN:,} more repos in [turns.csv](turns.csv).\n"
                if len(repos) > _REPOS_SHOWN else "")]
    if facts.mode == 2:
        parts += [f"### By length against the {opponent}",
                  _group_table("challenger", [("longer by over a tenth", longer), ("shorter by over a tenth", shorter)])
                  + f"\n{count(alike, 'turn')} of about the same length."]
    return "\n\n".join(part.strip() for part in parts)


def _group_table(what: str, named: list[tuple[str, list[Turn]]]) -> str:
    rows = []
    for name, turns in named:
        if turns:
            kept = sum(turn.bucket == "final" for turn in turns)
            rows.append((shown(name), f"{len(turns):,}", number(_mean(turn.score for turn in turns)),
                         f"{kept:,} ({percent(kept, len(turns))})", "*few*" if len(turns) < FEW else ""))
    return table(f"{what} | turns # | mean score # | final # | ", rows)


def leaks_of(turn: Turn, side: str) -> list[dict] | None:
    """The hits of the stored leak audit of one side; None when it was never audited."""
    audit = (turn.meta.get(side) or {}).get("leaks")
    audit = audit.get("hits") if isinstance(audit, dict) else audit
    return _list_of_dicts(audit) if isinstance(audit, list) else None


def audit_figures(turns: list[Turn]) -> tuple[dict[str, Counter], list[tuple[str, int, int, int]]]:
    """Of each side the turns audited and those with a hit; and by kind of leak the challengers with a hit, the kings
    with a hit, and the challenger's replies that were refused for it."""
    sides = {"challenger": Counter(), "king": Counter()}
    kinds, refused = {side: Counter() for side in sides}, Counter()
    for turn in turns:
        for side, figures in sides.items():
            hits = leaks_of(turn, side)
            figures.update(audited=hits is not None, hit=bool(hits))
            kinds[side].update({str(hit.get("kind")) for hit in hits or ()})
        challenger = turn.meta.get("challenger") or {}
        leaks = challenger.get("leaks")
        given = leaks.get("rejected") if isinstance(leaks, dict) else challenger.get("rejected")
        refused.update({str(kind): n for kind, n in (given or {}).items() if isinstance(n, int)})
    names = sorted({*kinds["challenger"], *kinds["king"], *refused})
    return sides, [(name, kinds["challenger"][name], kinds["king"][name], refused[name]) for name in names]


def leak_audit(facts: Facts) -> str:
    """Hits in the challenger's stored replies beside the king's, which cannot have peeked: the false-alarm floor."""
    sides, kinds = audit_figures(facts.turns)
    challenger, king = sides["challenger"], sides["king"]
    if not challenger["audited"]:
        return "## Leak audit\n\nNo stored reply carries an audit: `python ch.py` audits them."
    text = (f"Of {count(challenger['audited'], 'challenger')} kept, **{challenger['hit']:,}** "
            f"({percent(challenger['hit'], challenger['audited'])}) have a hit. Of {count(king['audited'], 'king')}, which "
            f"saw nothing hidden, {king['hit']:,} ({percent(king['hit'], king['audited'])}) do: that is the audit's "
            "false-alarm rate on this data.")
    if kinds:
        text += "\n\n" + table("kind | challengers with a hit # | kings with a hit # | challenger replies refused for it #",
                               ((shown(kind), *map(number, figures)) for kind, *figures in kinds))
    return "## Leak audit\n\n" + text


_NEXT = {  # what mends a turn of each status
    "no challenger": "python ch.py", "not judged": "python validate.py", "unfinished": "python validate.py",
    "stale": "python validate.py", "parse-fail": "python validate.py --retry-failed",
    "no answer": "python king.py, if the answer was lost",
    "broken": "the stage that the file's folder belongs to: king.py for answer_*/, validate.py for score/",
}


def unfinished(facts: Facts) -> str:
    """What failed and what to run next."""
    rows = []
    if not facts.limit:
        answered = {turn.stem for turn in facts.turns if turn.path}
        waiting = [stem for stem in facts.left_out.prompts if stem not in answered]
        waiting = sorted(set(waiting) - facts.left_out.stems(), key=natural_key)
        if waiting:
            rows.append(("no king", f"{len(waiting):,}", shown(waiting[0]), "`python king.py`"))
    for status, command in _NEXT.items():
        turns = [turn for turn in facts.turns if turn.status == status]
        if turns:
            example = link(turns[0]) + (f": {shown(turns[0].why)}" if turns[0].why else "")
            rows.append((status, f"{len(turns):,}", example, f"`{command}`" if command.startswith("python") else command))
    failed = defaultdict(list)
    for row in failed_items():
        failed[str(row.get("stage") or ""), str(row.get("kind") or row.get("reason") or "")].append(row)
    failures = [(shown(stage), shown(kind), f"{len(items):,}",
                 shown(f"{items[0].get('item')}: {items[0].get('reason')}", 240))
                for (stage, kind), items in sorted(failed.items())]
    parts = []
    if rows:
        parts.append(table("turns | number # | such as | run", rows))
    if failures:
        parts += ["Failures of each stage's last run:", table("stage | what | number # | such as", failures)]
    out = len(facts.left_out.stems())
    parts.append(f"Left out on purpose or for want of a PR record: {count(out, 'prompt')}, "
                 f"{count(len(facts.left_out.excluded), 'excluded instance')}; see [hugePR.md](hugePR.md).")
    return "## What is not done\n\n" + "\n\n".join(part.strip() for part in parts if part)


def turn_tables(facts: Facts) -> str:
    """Every turn of a small run; of a large one the best, the worst and the most disputed."""
    turns = sorted(facts.parsed, key=lambda turn: (-turn.score, natural_key(turn.stem)))
    if not turns:
        return ""
    few = len(turns) <= WHOLE_TABLE_TURNS
    some = max(1, min(5, len(turns) // 3)) if few else 20
    disputed = [turn for turn in sorted(turns, key=lambda turn: -turn.spread) if turn.spread][:some]
    parts = ["## Turns worth reading", "### Best", _reasons(turns[:some]), "### Worst", _reasons(turns[::-1][:some])]
    if disputed:
        parts += ["### Most disputed", "Where the judges are furthest apart.", _reasons(disputed)]
    if few:
        parts += ["## All turns", _turn_table(turns, facts)]
    else:
        parts += [f"All {len(turns):,} turns with their metrics: [turns.csv](turns.csv).",
                  f"## The {2 * some} ends of the table", _turn_table(turns[:some] + turns[-some:], facts)]
    return "\n\n".join(part.strip() for part in parts)


def _reasons(turns: list[Turn]) -> str:
    return table("score # | turn | style | judges # | one judge's reason", (
        (number(turn.score), link(turn), turn.style,
         " / ".join(number(score, 0) for score in turn.by_judge.values()), shown(turn.reason, 240)) for turn in turns))


def _turn_table(turns: list[Turn], facts: Facts) -> str:
    names = _metric_names(facts)
    return table("score # | bucket | file | instance | action style | " + " | ".join(f"{name} #" for name in names), (
        (number(turn.score), turn.bucket, link(turn), shown(turn.instance_id), turn.style,
         *(number(turn.metrics.get(name), 0) for name in names)) for turn in turns))


def link(turn: Turn) -> str:
    if turn.path is None:
        return shown(turn.stem)
    return f"[{shown(turn.stem)}](../{quote(turn.path.as_posix())})"


# ------------------------------------------------------------------------------------------- turns.csv and hugePR.md

def turns_csv(facts: Facts) -> str:
    """One line a turn. Cells that a spreadsheet would run as a formula are quoted with an apostrophe."""
    names, panel = _metric_names(facts), _judges(facts)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_cell, ["stem", "file", "instance_id", "repo", "status", "bucket", "score", "points", "max_points",
                                "style", "king_style", "step", "king_chars", "challenger_chars", *names,
                                *(f"judge {judge}" for judge in panel), "spread", "leak_hits", "king_leak_hits", "flags",
                                "protocol", "split", "reason", "why"]))
    for turn in facts.turns:
        writer.writerow(map(_cell, [
            turn.stem, turn.path.as_posix() if turn.path else "", turn.instance_id, turn.repo, turn.status,
            turn.bucket or "", _digits(turn.score), turn.points, turn.max_points, turn.style, turn.king_style, turn.step,
            turn.king_chars, turn.challenger_chars, *(_digits(turn.metrics.get(name)) for name in names),
            *(_digits(turn.by_judge.get(judge)) for judge in panel), _digits(turn.spread),
            len(leaks_of(turn, "challenger") or ()), len(leaks_of(turn, "king") or ()), ", ".join(map(str, turn.flags)),
            turn.protocol or "", split_of(turn.repo) if turn.bucket else "", turn.reason, turn.why]))
    return text.getvalue()


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _cell(value: object) -> str:
    text = str(value).replace("\0", "")
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def huge_pr(left_out: LeftOut) -> str:
    """hugePR.md: what was left out and why, with sizes in characters."""
    limit = load_config().generate.max_record_chars
    parts = ["# What was left out",
             f"Of {count(len(left_out.prompts), 'prompt')}, {len(left_out.stems()):,} got no king and no challenger.",
             "## Pull requests left out",
             f"A PR record goes whole into the challenger's prompt; over {limit:,} characters (`max_record_chars` in "
             "chain.toml's `[generate]`) it is left out, and so is every instance on the list of exclusions "
             "(`common/records.py`).",
             table("instance | repo | why | record chars # | of them patch # | prompts #", (
                 (shown(row["instance_id"]), shown(row["repo"]), shown(row["why"]), f"{row['record_chars']:,}",
                  f"{row['patch_chars']:,}", row["prompts"]) for row in left_out.too_large)) if left_out.too_large
             else "None.",
             "## Excluded while sampling",
             table("instance | repo | why", (
                 (shown(row.get("instance_id") or "–"), shown(row.get("repo") or "–"), shown(row.get("reason") or "–"))
                 for row in left_out.excluded)) if left_out.excluded else "None.",
             "## Prompts without a usable PR record"]
    if left_out.no_record:
        parts += ["`python prompt.py` fetches what is missing.",
                  table("instance | repo | why | prompts #", (
                      (shown(row["instance_id"]), shown(row["repo"]), shown(row["why"]), row["prompts"])
                      for row in left_out.no_record))]
    else:
        parts.append("None.")
    return "\n\n".join(part.strip() for part in parts) + "\n"


# ------------------------------------------------------------------------------------------------------ dataset card

# The licence is the user's to state: whatever `license` lines a card already holds are kept by every later run.
_LICENCE_TO_STATE = "license: unknown  # yours to state, for example: license: cc-by-4.0 (kept by later runs)"

_CARD = """\
---
{licence}
pretty_name: Preferred single turns of a coding agent
task_categories:
- text-generation
tags:
- code
- agent
- software-engineering
- sft
- dpo
size_categories:
- {size}
{configs}---

# Preferred single turns of a coding agent

Each row is one turn of a coding agent: the chat so far, then a THOUGHT and one bash command. For each turn two replies
were written; a panel of LLM judges compared them, and what it clearly preferred was kept.

{files}

```python
from datasets import load_dataset

sft = load_dataset("json", data_files={{"train": "sft-train.jsonl"}})  # in this folder
sft = load_dataset("USER/NAME", "sft")  # once it is uploaded: hf upload USER/NAME export . --repo-type dataset
```

## Columns

| column | what it holds |
| --- | --- |
| `prompt` | the chat up to the turn: list of `{{role, content}}`, ends with a user message |
| `completion` (sft) | the reply that was kept: one assistant message |
| `chosen`, `rejected` (dpo) | the same reply, and the one that it was preferred to |
| `instance_id`, `repo` | the task and its repository |
| `stem` | the turn's name in the pipeline's files |
| `score` | 0 to 100: share of judgements that the kept reply won (a draw counts half) |
| `meta` | one JSON string: bucket, points, score by metric and by judge, action style, step, model, source row |

The columns are those of TRL's conversational *prompt-completion* and *preference* formats.

## How it was made

1. Turns were drawn at random from {dataset}, revision {revision} (seed {seed}).
2. The *king* reply was written from the chat alone.
3. The *challenger* reply was written with the task's hidden PR record at hand, under the rule to behave as an agent that
   has not seen it, and was refused when an audit found knowledge that the chat could not have given.
4. A panel judged the challenger against {opponent_words}, in both orders, by {metrics}.
   The judges saw neither the PR record nor who wrote what.
5. The challenger was kept from {kept_from} points of 100 on{kept_buckets}. Of turns of one instance whose completions
   nearly repeat each other (Jaccard {jaccard:g} or more between sets of word triples) the best-scored one is kept:
   {duplicates} dropped.
6. Train and validation are split by repository, by a hash of its name: about {validation} % of the repositories are in
   validation ({repos}), and a turn never changes sides as the data grows.

| | |
| --- | --- |
{figures}

## Known limits

- A turn is judged by LLMs reading it, not by running it to the end of its task.
- Scores of kept turns are high partly by selection: judged again, they would come out lower on average.
- Judges share biases (position, which both orders cancel; length and style, which nothing here cancels) and agree more
  with each other than independent readers would.
- The audit finds references that the chat could not have given. It cannot see a choice that was merely guided by the
  hidden record.
- Chats quote public repositories and issues as they were; nothing was anonymised.

## Licence

Not stated by the tool that made this. The chats hold text of the repositories and of the source data, each under its own
terms. State the licence in the first lines of this file.
"""


def dataset_card(facts: Facts, export: Export) -> str:
    duel, plan = facts.duel or {}, facts.plan
    rows = max([export.rows.get("sft-train.jsonl", 0) + export.rows.get("sft-validation.jsonl", 0)])
    files = "\n".join(f"- `{name}`: {count(n, 'row')}" for name, n in export.rows.items()) \
        or "No turn has reached the threshold yet: there is no data file."
    audit, _ = audit_figures(facts.turns)
    low, high = (duel.get("interval") or [None, None])[:2]
    figures = [
        ("replies written by", models_words(facts)),
        ("judges", ", ".join(shown(judge) for judge in duel.get("judges") or _judges(facts))),
        ("judged turns", f"{len(facts.parsed):,}"),
        ("mean score of all judged turns", f"{number(duel.get('mean_score'))}, interval {number(low)} to {number(high)}"),
        ("verdict on the whole run", _accepted_words(duel["accepted"]) if duel else "none"),
        ("agreement of the judges", f"{shown((duel.get('agreement') or {}).get('name') or 'not stated')} "
                                    f"{number((duel.get('agreement') or {}).get('value'), 2)}"),
        ("thresholds", f"final from {_FINAL_MIN}, refined from {_DEFEAT_MIN}, defeat below"),
        ("leak audit, challengers with a hit", f"{audit['challenger']['hit']:,} of {audit['challenger']['audited']:,}"),
        ("leak audit, kings with a hit (false alarms)", f"{audit['king']['hit']:,} of {audit['king']['audited']:,}"),
        ("held back for breaking the chat's protocol", f"{export.held_back:,}"),
    ]
    return _CARD.format(
        licence=_stated_licence(), size=_size_category(rows), configs=_card_configs(export), files=files,
        dataset=shown(dataset_name(plan)), revision=shown(plan.get("revision") or "not known"),
        seed=shown(plan.get("seed", "not known")),
        opponent_words="the king" if facts.mode == 2 else "the reply of the source data (the reference)",
        metrics=", ".join(shown(name) for name in _metric_names(facts)) or "several metrics",
        kept_from=_DEFEAT_MIN if "refined" in export.buckets else _FINAL_MIN,
        kept_buckets=_REFINED_WORDS if "refined" in export.buckets else "", jaccard=NEAR_DUPLICATE_JACCARD,
        duplicates=count(export.duplicates, "turn"), validation=VALIDATION_PERCENT,
        repos=f"{export.repos.get('train', 0):,} in train, {export.repos.get('validation', 0):,} in validation",
        figures="\n".join(f"| {name} | {value} |" for name, value in figures))


_REFINED_WORDS = " (with the refined turns)"


def card_says_refined() -> bool:
    """Whether the card that lies in export/ speaks of refined turns too."""
    try:
        return _REFINED_WORDS in Path("export/README.md").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False


def _card_configs(export: Export) -> str:
    lines = []
    for kind in ("sft", "dpo"):
        splits = [name for name in export.rows if name.startswith(kind)]
        if splits:
            lines += [f"- config_name: {kind}", *(["  default: true"] if kind == "sft" else []), "  data_files:"]
        for name in splits:
            lines += [f"  - split: {name.removeprefix(kind + '-').removesuffix('.jsonl')}", f"    path: {name}"]
    return "\n".join(["configs:", *lines, ""]) if lines else ""


def _size_category(rows: int) -> str:
    for limit, name in ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if rows < limit:
            return name
    return "1M<n<10M"


def _stated_licence() -> str:
    """The licence lines of the card that lies there, so that what the user stated is kept."""
    try:
        text = Path("export/README.md").read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return _LICENCE_TO_STATE
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    stated = re.findall(r"^license\w*:.*(?:\n(?:[ \t]|- ).*)*", front[1], re.MULTILINE) if front else []
    return "\n".join(stated) or _LICENCE_TO_STATE


# ----------------------------------------------------------------------------------------------------- tally, --check

def show_tally(facts: Facts, tally: Tally) -> int:
    buckets = Counter(turn.bucket for turn in facts.turns if turn.bucket)
    for turn in facts.turns:
        if turn.status not in ("parsed", "broken"):
            tally.skipped[turn.status + (f", run {_NEXT[turn.status]}" if turn.status in _NEXT else "")] += 1
    if facts.limit:
        tally.done = len(facts.parsed)
    lines = [f"verdict {verdict(facts).splitlines()[0].removeprefix('# ')}"]
    if stale := facts.duel_is_stale():
        lines.append(f"stale   score/_duel.json: {stale}; run python validate.py, then this again")
    if not facts.limit:
        lines += ["buckets " + ", ".join(f"{name}/ {buckets[name]:,}" for name in BUCKETS),
                  "export  " + (", ".join(f"{name} {n:,}" for name, n in facts.export.rows.items()) or "no row yet")
                  + f"; {facts.export.duplicates:,} near-duplicates dropped"]
    lines.append("report  report/report.md, report/turns.csv, report/hugePR.md")
    return tally.show(*lines, next_command=_next_command(facts))


def _next_command(facts: Facts) -> str:
    statuses = {turn.status for turn in facts.turns}
    for status in ("no challenger", "not judged", "unfinished", "stale", "parse-fail"):
        if status in statuses:
            return f"{_NEXT[status]}, then python report.py"
    return "python validate.py" if facts.duel is None else ""


_CHECK_SHOWN = 20  # of each kind of fault


def show_check(facts: Facts, writer: Writer, tally: Tally) -> int:
    """Print what is torn, stale or out of place, and which stage mends it; returns the exit code."""
    faults = {row["kind"]: [] for row in tally.failed}
    for row in tally.failed:
        faults[row["kind"]].append(row["reason"])
    places = defaultdict(list)
    for folder in answer_folders():
        for path in turn_files(folder):
            places[path.stem].append(str(path))
    faults["answered twice: delete one (report.py takes the first)"] = [
        " and ".join(paths) for paths in places.values() if len(paths) > 1]
    faults["score without an answer: put the answer back, or delete the score"] = [
        turn.why for turn in facts.turns if turn.status == "no answer"]
    faults["stale score, mended by python validate.py"] = [
        f"score/{turn.stem}.json: {turn.why}" for turn in facts.turns if turn.status == "stale"]
    duel_fault = "it is missing" if facts.duel is None else facts.duel_is_stale()
    faults["stale verdict, mended by python validate.py"] = [f"score/_duel.json: {duel_fault}"] if duel_fault else []
    faults["stale report, bucket or export, mended by python report.py"] = writer.stale
    for kind, found in faults.items():
        if found:
            print(f"{kind}: {len(found):,}")
            for line in found[:_CHECK_SHOWN]:
                print(f"  {line}")
            if len(found) > _CHECK_SHOWN:
                print(f"  and {len(found) - _CHECK_SHOWN:,} more")
    for bucket in BUCKETS:
        known = {turn.stem for turn in facts.turns if turn.path}
        if orphans := [path for path in turn_files(bucket) if path.stem not in known]:
            print(f"note: {len(orphans):,} files in {bucket}/ belong to no answer here; left alone, such as {orphans[0]}")
    if any(faults.values()):
        return EXIT_SOME_FAILED
    print(f"report.py --check: {count(len(facts.turns), 'turn')}, all whole and consistent.")
    return 0


if __name__ == "__main__":
    run(main)
