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
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterable, Iterator
from urllib.parse import quote

from common.config import Config, load_config
from common.files import (BadFile, UserError, answer_folders, clean_text, digest, lock_folders, natural_key, read_json,
                       is_safe_name, quarantine, turn_files, write_text)
from common.turns import is_chat, read_record, record_chars, exclusion_reason
from common.replies.protocol import action_style, protocol_problem
from common.cli import EXIT_DONE, EXIT_SOME_FAILED, Progress, Tally, parser, run

_FINAL_MIN = 80  # score points: from here a turn goes to final/
_DEFEAT_MIN = 66  # below this to defeat/; in between to refined/
BUCKETS = ("final", "refined", "defeat")

VALIDATION_PERCENT = 10  # of the repos, by a hash of their names
NEAR_DUPLICATE_JACCARD = 0.8  # of the sets of word triples of two completions

_WRITERS = 4  # threads that wait for the disk to say that a copy is safe
WHOLE_TABLE_TURNS = 100  # up to here report.md lists every turn; beyond, the best, worst and most disputed
FEW = 10  # a group of fewer turns is marked as few

ANSWER_KEYS = ("instance_id", "king", "challenger", "assistant", "messages", "meta")
SCORE_KEYS = ("stem", "mode", "points", "max_points", "parsed", "status", "metrics", "by_judge", "reason", "sha")
COPY_KEYS = ANSWER_KEYS + ("score", "metrics", "reason")


def main() -> int:
    flags = _flags()
    writer, tally = Writer(check=flags.check), Tally("report.py")
    config, stems = load_config(), find_stems(flags.limit, need_scores=not flags.check)
    held = [] if flags.check else ["report"] if flags.limit else ["report", *BUCKETS]
    with lock_folders([Path(folder) for folder in held], "report") if held else nullcontext():
        turns, left_out = read_turns(stems, tally), read_left_out(config, tally)
        for turn in turns:  # an answer that does not name its repo, though its prompt does
            turn.repo = turn.repo or left_out.repos.get(turn.instance_id) or turn.instance_id
        facts = Facts(turns, left_out, read_duel(tally), read_plan(), config, flags.limit)
        if not flags.limit:
            export_final(facts.turns, writer, tally)
            export_refined(facts.turns, writer, tally)
            export_defeat(facts.turns, writer, tally)
            remove_unplaced(facts.turns, writer)
            export_training(facts, flags.with_refined or flags.check and card_says_refined(), writer)
        writer.put("report/turns.csv", turns_csv(facts))
        writer.put("report/hugePR.md", huge_pr(facts))
        writer.put("report/report.md", report(facts))
        if flags.check:
            return show_check(facts, writer, tally)
        tally.write_failed("report")
    return show_tally(facts, writer, tally)


def _flags():
    flags = parser(__doc__)
    flags.add_argument("--with-refined", action="store_true", help="export refined/ as well as final/")
    flags.add_argument("--check", action="store_true",
                       help="verify answers, scores, buckets and exports; write nothing; exit 0 or 1")
    given = flags.parse_args()
    if given.check and given.limit:
        raise UserError("--check looks at everything: leave out --limit.")
    return given


# ------------------------------------------------------------------------------------------------- what was judged

@dataclass(eq=False)
class Turn:
    """One turn as the report needs it; the chat stays on disk."""

    stem: str
    path: Path | None  # its answer file
    status: str = "no answer"  # parsed, parse-fail, unfinished, or a key of _NEXT
    why: str = ""
    instance_id: str = ""
    repo: str = ""
    meta: dict = field(default_factory=dict)
    challenger: str = ""
    king_chars: int = 0
    style: str = ""
    step: int = 0  # 1 = the first reply of its trajectory
    protocol: str | None = None  # what the challenger breaks of its chat's protocol
    mode: int = 2  # 2: judged against the king, 1: against the dataset's own reply
    points: int = 0  # the challenger's half-points of max_points
    max_points: int = 0
    metrics: dict = field(default_factory=dict)
    by_judge: dict = field(default_factory=dict)
    reason: str = ""
    flags: list = field(default_factory=list)
    exported: str = ""  # train, validation, or why not

    @property
    def score(self) -> float | None:
        return 100 * self.points / self.max_points if self.status == "parsed" else None

    def reaches(self, threshold: int) -> bool:
        """In whole numbers, so that 80 is 80."""
        return self.points * 100 >= threshold * self.max_points

    @property
    def bucket(self) -> str | None:
        """Where the turn belongs. A reply that breaks the protocol of its chat never reaches final/, whatever it
        scored: it is held back in refined/, and never exported."""
        if self.status != "parsed":
            return None
        if not self.reaches(_DEFEAT_MIN):
            return "defeat"
        return "final" if self.reaches(_FINAL_MIN) and not self.protocol else "refined"

    @property
    def held_back(self) -> bool:
        return self.bucket == "refined" and self.reaches(_FINAL_MIN)

    @property
    def spread(self) -> float:
        """How far the judges are apart, in score points."""
        scores = [score for score in self.by_judge.values() if score is not None]
        return max(scores) - min(scores) if scores else 0.0

    @property
    def opponent(self) -> str:
        """The answer's key of the reply that the challenger was judged against."""
        return "king" if self.mode == 2 else "assistant"


def _find_answer(stem: str, folders: list[Path] | None = None) -> Path | None:
    """The answer file of a turn: in the first answer folder, by number, that holds it."""
    for folder in answer_folders() if folders is None else folders:
        if (path := folder / f"{stem}.json").is_file():
            return path
    return None


def find_stems(limit: int | None, need_scores: bool) -> list[str]:
    """Every answered or scored turn in natural order; the first `limit` of the scored ones. Raises UserError."""
    scored = [path.stem for path in turn_files("score")]
    answered = {path.stem for folder in answer_folders() for path in turn_files(folder)}
    if need_scores and not scored:
        raise UserError("score/ holds no judged turn: validate.py writes it.\nRun python validate.py, then this again.")
    if not answered:
        raise UserError("answer_*/ hold no turn: king.py writes them.\nPut them back beside score/, or run python king.py.")
    return scored[:limit] if limit else sorted(answered | set(scored), key=natural_key)


def read_turns(stems: list[str], tally: Tally) -> list[Turn]:
    """Each turn from its files; torn ones are failures of the tally."""
    progress, folders, turns = Progress(len(stems), "reading"), answer_folders(), []
    for stem in stems:
        turns.append(read_turn(stem, _find_answer(stem, folders), tally))
        progress.update(failed=len(tally.failed))
    progress.close()
    return turns


def read_turn(stem: str, path: Path | None, tally: Tally) -> Turn:
    """One turn from its answer and its score; what is missing, torn or out of date is said in `status` and `why`."""
    turn = Turn(stem, path)
    if path is None:
        turn.why = f"score/{stem}.json has no answer in any answer_*/"
        return turn
    try:
        answer = read_answer(path)
        describe_answer(turn, answer)
        if not answer["challenger"]:
            turn.status = "no challenger"
        else:
            take_score(turn, answer, read_score(stem))
    except FileNotFoundError:
        turn.status = "not judged"
    except BadFile as bad:
        turn.status, turn.why = "broken", str(bad)
        mended_by = "validate.py" if bad.path.parent.name == "score" else "king.py, then ch.py"
        tally.fail(stem, f"torn or foreign file, mended by python {mended_by}", str(bad))
    return turn


def read_answer(path: Path) -> dict:
    """An answer file, checked as far as this stage relies on it. Raises BadFile."""
    answer = read_json(path, ANSWER_KEYS[:-1])
    answer["meta"] = answer.get("meta") if isinstance(answer.get("meta"), dict) else {}
    if not is_safe_name(path.stem):
        raise BadFile(path, "a name that no stage of this pipeline gives")
    for key in ("king", "challenger", "assistant"):
        if not isinstance(answer[key], (str, type(None))):
            raise BadFile(path, f"{key}: expected text, found a {type(answer[key]).__name__}")
    meta = answer["meta"]
    if not (isinstance(answer["instance_id"], str) and isinstance(meta, dict) and all(
            isinstance(meta.get(side) or {}, dict) for side in ("king", "challenger"))):
        raise BadFile(path, "instance_id: expected text; meta, and king and challenger in it: expected objects")
    if not is_chat(answer["messages"]):
        raise BadFile(path, "messages: expected a list of {role, content}")
    return answer


def read_score(stem: str) -> dict:
    """A score file, checked. Raises FileNotFoundError, BadFile."""
    path = Path("score", f"{stem}.json")
    score = read_json(path, SCORE_KEYS)
    if score["stem"] != stem or not isinstance(score["sha"], dict):
        raise BadFile(path, f"holds the score of {score['stem']!r}" if score["stem"] != stem else "sha: no object")
    points, most = score["points"], score["max_points"]
    if score["parsed"]:
        if not (type(points) is type(most) is int and 0 <= points <= most and most):
            raise BadFile(path, f"points {points!r} of {most!r}: expected whole numbers")
        if not isinstance(score.get("score"), (int, float)) or abs(score["score"] - 100 * points / most) > 1e-6:
            raise BadFile(path, f"score {score.get('score')!r} is not 100 * points / max_points ({points}/{most})")
        for key in ("metrics", "by_judge"):
            if not isinstance(score[key], dict) or not all(isinstance(v, (int, float, type(None))) for v in score[key].values()):
                raise BadFile(path, f"{key}: expected an object of numbers")
    if not isinstance(score.get("flags") or [], list) or score["mode"] not in (1, 2):
        raise BadFile(path, "flags: expected a list; mode: expected 1 or 2")
    return score


def describe_answer(turn: Turn, answer: dict) -> None:
    turn.instance_id, turn.meta = answer["instance_id"], answer["meta"]
    turn.repo, turn.king_chars = str(answer["meta"].get("repo") or ""), len(answer["king"] or "")
    turn.step = 1 + sum(message["role"] == "assistant" for message in answer["messages"])
    if answer["challenger"]:
        turn.challenger, turn.style = answer["challenger"], action_style(answer["challenger"])
        turn.protocol = protocol_problem(answer["challenger"], answer["messages"])


def take_score(turn: Turn, answer: dict, score: dict) -> None:
    """Take over what the judges said, unless they judged other texts than the answer holds now."""
    turn.mode, now = score["mode"], judged_texts(answer)
    changed = [name for name in ("chat", "challenger", turn.opponent) if score["sha"].get(name) != now[name]]
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
    aside: list[Path] = field(default_factory=list)  # foreign files that stood in the way, where they lie now

    def put(self, path: Path | str, text: str, ours: Callable[[Path], bool] = lambda path: True) -> None:
        """Write `text` unless it is there; a file at that place that is not `ours` is moved aside first."""
        path, text = Path(path), clean_text(text)
        try:
            there, same = True, path.read_bytes() == text.encode("utf-8")
        except FileNotFoundError:
            there = same = False
        if same:
            return
        if self.check:
            self._differs(path, there)
            return
        if there and not ours(path):
            self.aside.append(quarantine(path))
        write_text(path, text, durable=False)  # made from answers and scores, and compared with them by every run

    @contextmanager
    def lines(self, path: Path | str) -> Iterator[Callable[[str], None]]:
        """Like `put`, line by line, for a file that need not fit into memory."""
        path = Path(path)
        there = path.exists()
        temporary = Path(os.devnull) if self.check else path.with_name(f".{path.name}.tmp")
        if not self.check:
            path.parent.mkdir(parents=True, exist_ok=True)
        # A temporary file that a kill left behind is written over.
        with open(path if there else os.devnull, "rb") as old, open(temporary, "wb") as new:
            same = there

            def add(line: str) -> None:
                nonlocal same
                data = clean_text(line).encode("utf-8") + b"\n"
                same = same and old.read(len(data)) == data
                new.write(data)

            yield add
            same = same and not old.read(1)
            if not self.check and not same:
                new.flush()
                os.fsync(new.fileno())
        if self.check and not same:
            self._differs(path, there)
        elif not self.check:
            temporary.unlink() if same else os.replace(temporary, path)

    def remove(self, path: Path, why: str) -> None:
        if self.check:
            self.stale.append(f"{path} {why}")
        else:
            path.unlink(missing_ok=True)

    def _differs(self, path: Path, there: bool) -> None:
        self.stale.append(f"{path} {'is out of date' if there else 'is missing'}")


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
    """Copy the bucket's turns into its folder, and take each out of the other two right after: a kill between the two
    leaves a turn in both, for the next run to mend, and never in none."""
    chosen = [turn for turn in turns if turn.bucket == bucket]
    others = {other: {path.name for path in turn_files(other)} for other in BUCKETS if other != bucket}
    progress = Progress(len(chosen), f"{bucket}/")

    def place(turn: Turn) -> None:
        path = Path(bucket, f"{turn.stem}.json")
        writer.put(path, bucket_copy(turn), ours=_is_ours)
        for other, names in others.items():
            if path.name in names:
                _remove_copy(Path(other, path.name), writer)

    with ThreadPoolExecutor(_WRITERS) as pool:
        for _ in pool.map(place, chosen):
            tally.done += 1
            progress.update()
    progress.close()


def bucket_copy(turn: Turn) -> str:
    """The answer file's own text with three keys more at its end."""
    reason = f"Held back from final/: {turn.protocol}. {turn.reason}" if turn.held_back else turn.reason
    try:
        answer = turn.path.read_bytes().decode("utf-8").rstrip()
    except UnicodeDecodeError:
        answer = ""
    if not answer.startswith("{"):  # another tool's encoding or byte order mark: JSON readers know it, copies do not
        answer = json.dumps(read_answer(turn.path), ensure_ascii=False, indent=1)
    more = {"score": turn.score, "metrics": turn.metrics, "reason": reason}
    lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in more.items()]
    return answer.removesuffix("}").rstrip() + ",\n" + ",\n".join(lines) + "\n}\n"


def remove_unplaced(turns: list[Turn], writer: Writer) -> None:
    """Take out of all buckets what is no judged turn any more. One whose answer is gone or torn stays: it may be
    the last."""
    for turn in turns:
        if turn.bucket is None and turn.path is not None and turn.instance_id:  # none: its answer is torn
            for bucket in BUCKETS:
                _remove_copy(Path(bucket, f"{turn.stem}.json"), writer)


def _remove_copy(path: Path, writer: Writer) -> None:
    if path.exists() and _is_ours(path):
        writer.remove(path, "lies in the wrong bucket")


# The end that bucket_copy gives a file; no text holds it, for in JSON text a newline is escaped.
_OUR_END = re.compile(rb'\n "score": [^\n]*,\n "metrics": [^\n]*,\n "reason": [^\n]*\n}\n\Z')


def _is_ours(path: Path) -> bool:
    """Whether a file is a copy that this stage wrote, by what it holds."""
    try:
        return bool(_OUR_END.search(path.read_bytes())) or bool(read_json(path, COPY_KEYS))
    except (BadFile, OSError):
        return False


# ---------------------------------------------------------------------------------------------------- training files

@dataclass
class Export:
    """What went into export/, for the report and the card."""

    buckets: list[str]
    rows: Counter = field(default_factory=Counter)  # by file name
    repos: dict[str, int] = field(default_factory=dict)  # by split
    duplicates: int = 0
    held_back: int = 0


def export_training(facts: Facts, with_refined: bool, writer: Writer) -> None:
    """export/: training files in TRL's formats, and the dataset card last, so that it never speaks of files to come."""
    buckets = ["final", "refined"] if with_refined else ["final"]
    candidates = [turn for turn in facts.turns if turn.bucket in buckets or turn.held_back]
    kept = [turn for turn in candidates if not turn.protocol]
    chosen = drop_near_duplicates(kept)
    for turn in candidates:
        turn.exported = "not exported: breaks the protocol" if turn.protocol else "not exported: near-duplicate"
    facts.export = Export(buckets, held_back=len(candidates) - len(kept), duplicates=len(kept) - len(chosen))
    for split in ("train", "validation"):
        part = [turn for turn in chosen if split_of(turn.repo) == split]
        facts.export.repos[split] = len({turn.repo for turn in part})
        names = [f"{kind}-{split}.jsonl" for kind in ("sft", "dpo")]
        if not part:  # `datasets` cannot open an empty file
            for path in (Path("export", name) for name in names):
                if path.exists():
                    writer.remove(path, "holds rows that are no longer chosen")
            continue
        with ExitStack() as files:
            add_sft, add_dpo = (files.enter_context(writer.lines(Path("export", name))) for name in names)
            for turn in part:
                answer, turn.exported = read_answer(turn.path), split
                add_sft(json.dumps(sft_row(turn, answer), ensure_ascii=False))
                add_dpo(json.dumps(dpo_row(turn, answer), ensure_ascii=False))
        facts.export.rows.update(dict.fromkeys(names, len(part)))
    writer.put("export/README.md", dataset_card(facts))


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
        triples = {turn.stem: _word_triples(turn.challenger) for turn in group}
        frequency = Counter(triple for each in triples.values() for triple in each)
        holders = defaultdict(list)  # rare triple -> kept sets that have it among their rarest
        for turn in group:
            own = triples[turn.stem]
            rarest = sorted(own, key=lambda triple: (frequency[triple], triple))  # one order for all sets
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
    config: Config
    limit: int | None
    export: Export | None = None

    def __post_init__(self):
        self.parsed = [turn for turn in self.turns if turn.status == "parsed"]
        self.statuses = Counter(turn.status for turn in self.turns)
        self.buckets = Counter(turn.bucket for turn in self.parsed)
        self.mode = self.parsed[0].mode if self.parsed else int((self.duel or {}).get("mode") or 2)
        self.opponent = "king" if self.mode == 2 else "reference"
        self.judges = list((self.duel or {}).get("judges") or dict.fromkeys(j for t in self.parsed for j in t.by_judge))
        self.metrics = list((self.duel or {}).get("metrics") or next((turn.metrics for turn in self.parsed), {}))
        self.audit, self.leak_kinds = audit_figures(self.turns)
        self.sides = {side: [meta for turn in self.turns if isinstance(meta := turn.meta.get(side), dict)]
                      for side in ("king", "challenger")}

    def why_duel_is_stale(self) -> str:
        """Why score/_duel.json speaks of other scores, or of another chain.toml, than lie here; "" when it does not."""
        if self.duel is None or self.limit:
            return ""
        counted, then = self.duel.get("turns") or {}, self.duel.get("config") or {}
        mean, here = self.duel.get("mean_score"), _mean(turn.score for turn in self.parsed)
        if self.statuses["stale"]:
            return f"{self.statuses['stale']} of its turns have changed since they were judged"
        if others := sum(turn.mode != self.duel["mode"] for turn in self.parsed):
            return f"it is of DUEL_MODE={self.duel['mode']}, {others} of the scores are of the other one"
        if counted.get("parsed") != self.statuses["parsed"]:
            return f"it counts {counted.get('parsed')} parsed turns, here are {self.statuses['parsed']}"
        if mean is not None and abs(mean - here) > 0.01:
            return f"it gives a mean score of {mean:.2f}, here it is {here:.2f}"
        sampling = {model: self.config.judge_call(model).sampling() for model in self.config.judge.models}
        if then.get("judges", sampling) != sampling:
            return "the judges in chain.toml, or their sampling, are not those that were asked"
        if then.get("duel", vars(self.config.duel)) != vars(self.config.duel):
            return "[duel] in chain.toml has changed since"
        return ""


@dataclass
class LeftOut:
    """Prompts that never became turns, by instance."""

    prompts: dict[str, str] = field(default_factory=dict)  # stem -> instance, of every prompt
    repos: dict[str, str] = field(default_factory=dict)  # instance -> repo, as the prompts name it
    too_large: list[dict] = field(default_factory=list)  # instance_id, repo, prompts, why, record_chars, patch_chars
    no_record: list[dict] = field(default_factory=list)  # instance_id, repo, prompts, why
    sampling: list[dict] = field(default_factory=list)  # the plan's: instance_id, repo, reason

    def stems(self) -> set[str]:
        out = {row["instance_id"] for row in [*self.too_large, *self.no_record]}
        return {stem for stem, instance in self.prompts.items() if instance in out}


_LEFT_OUT_SAMPLING = ("excluded", "without_record", "refused")  # lists of prompt/_plan.json


def read_left_out(config: Config, tally: Tally) -> LeftOut:
    """What prompt.py and king.py passed over; sizes in characters of what the challenger's prompt would have held."""
    plan, rows = read_plan(), {}
    left_out = LeftOut(sampling=[row for kind in _LEFT_OUT_SAMPLING for row in _dicts(plan.get(kind))])
    for path in turn_files("prompt"):
        try:
            prompts = _dicts(read_json(path))
        except BadFile as bad:
            tally.fail(path.stem, "torn or foreign file, mended by python prompt.py", str(bad))
            continue
        for place, prompt in enumerate(prompts, start=1):
            instance, repo = str(prompt.get("instance_id") or ""), str(prompt.get("repo") or "")
            left_out.prompts[f"{path.stem}_{place}"] = instance
            rows.setdefault(instance, {"instance_id": instance, "repo": repo, "prompts": 0})["prompts"] += 1
    left_out.repos = {instance: row["repo"] for instance, row in rows.items()}
    for instance, row in rows.items():
        try:
            record = read_record(instance) if is_safe_name(instance) else None
        except (UserError, BadFile) as missing:
            left_out.no_record.append({**row, "why": str(missing).split("\n")[0]})
            continue
        if record is None:
            left_out.no_record.append({**row, "why": "a name that cannot be a file name"})
        elif why := exclusion_reason(record, config.generate.max_record_chars):
            left_out.too_large.append({**row, "why": why, "record_chars": record_chars(record),
                                       "patch_chars": len(record["patch"] or "")})
    left_out.too_large.sort(key=lambda row: (-row["record_chars"], row["instance_id"]))
    return left_out


def read_plan() -> dict:
    try:
        plan = read_json("prompt/_plan.json")
    except (FileNotFoundError, BadFile):
        return {}
    return plan if isinstance(plan, dict) else {}


def read_duel(tally: Tally) -> dict | None:
    """score/_duel.json; None when there is none, or none that can be read."""
    try:
        duel = read_json("score/_duel.json", ("mode", "accepted", "why", "turns"))
        for key in ("turns", "judges", "config", "metrics", "leave_one_out", "retest", "without_generator"):
            if not isinstance(duel.get(key) or {}, dict):
                raise BadFile(Path("score/_duel.json"), f"{key}: expected an object")
        return duel
    except FileNotFoundError:
        return None
    except BadFile as bad:
        tally.fail("_duel", "torn or foreign file, mended by python validate.py", str(bad))
        return None


def failed_items() -> list[dict]:
    """The _failed.jsonl of the stages' last runs."""
    rows, found = [], [Path().glob(f"{folder}/_failed*.jsonl") for folder in ("prompt", "answer_*", "score")]
    for path in (path for paths in found for path in sorted(paths)):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                rows += _dicts([json.loads(line)])
            except ValueError:
                continue
    return rows


def leaks_of(turn: Turn, side: str) -> list[dict] | None:
    """The hits of the stored leak audit of one side; None when it was never audited."""
    audit = (turn.meta.get(side) or {}).get("leaks")
    audit = audit.get("hits") if isinstance(audit, dict) else audit
    return _dicts(audit) if isinstance(audit, list) else None


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
        given = challenger.get("rejected") or (leaks.get("rejected") if isinstance(leaks, dict) else None)
        refused.update({str(k): n for k, n in given.items() if isinstance(n, int)} if isinstance(given, dict) else {})
    names = sorted({*kinds["challenger"], *kinds["king"], *refused})
    return sides, [(name, kinds["challenger"][name], kinds["king"][name], refused[name]) for name in names]


def _dicts(value: object) -> list[dict]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0


# ------------------------------------------------------------------------------------------------- text for Markdown

def shown(text: object, limit: int = 200) -> str:
    """Text from outside as one line that Markdown, HTML, GitHub's math and its @mentions leave as it is."""
    kinds = {"Cc": " ", "Zl": " ", "Zp": " ", "Cf": ""}  # controls and line ends; invisible and direction marks
    line = "".join(kinds.get(unicodedata.category(char), char) for char in clean_text(str(text))[:4 * limit])
    line = " ".join(line.split())
    line = line if len(line) <= limit else line[:limit - 1] + "…"
    line = re.sub(r"([\\`*\[\]|~])", r"\\\1", line)
    line = re.sub(r"(?<!\w)_+|_+(?!\w)", lambda run: r"\_" * len(run[0]), line)  # inside a word it marks nothing
    line = re.sub(r"^([#+=-])", r"\\\1", re.sub(r"^(\d+)([.)])", r"\1\\\2", line))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("$", "&#36;")
    line = re.sub(r"(https?|ftp):(?=//)", r"\1&#58;", line, flags=re.IGNORECASE)
    return re.sub(r"\bwww\.", "www&#46;", line, flags=re.IGNORECASE).replace("@", "@\u2060")


def table(headers: str, rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; a header that ends in # heads a column of numbers. Cells are Markdown already."""
    names = [name.strip() for name in headers.split("|")]
    lines = [[name.rstrip("# ") for name in names], ["---:" if name.endswith("#") else "---" for name in names],
             *([number(cell) if isinstance(cell, (int, float, type(None))) else cell for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | int | None, digits: int = 1) -> str:
    if value is None or value != value or abs(value) == float("inf"):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def percent(part: float | None, whole: float = 1) -> str:
    return "–" if part is None or not whole else f"{100 * part / whole:.0f} %"


def count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def page(*parts: str) -> str:
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def link(turn: Turn) -> str:
    return f"[{shown(turn.stem)}](../{quote(turn.path.as_posix())})" if turn.path else shown(turn.stem)


# ------------------------------------------------------------------------------------------------------- report.md

def report(facts: Facts) -> str:
    """report.md, for a reader in a hurry: each part is one function, in the order of the page."""
    parts = (verdict, numbers, score_chart, points_to_look_at, judges, metrics, groups, leak_audit, unfinished,
             turns_to_read)
    return page(*(part(facts) for part in parts))


def verdict(facts: Facts) -> str:
    duel, parts = facts.duel, []
    if facts.limit:
        parts.append(f"A trial (`--limit`): below are only the first {count(len(facts.turns), 'scored turn')}; the "
                     "verdict is that of the whole run. `final/ refined/ defeat/ export/` were left as they are.")
    if duel is None:
        parts.append("`score/_duel.json` is missing: run `python validate.py`, then `python report.py`.")
    else:
        parts.append(f"**{verdict_word(duel).capitalize()}.** "
                     f"{shown(str(duel['why']).removeprefix(verdict_word(duel) + ': '), 600)}")
    if stale := facts.why_duel_is_stale():
        parts.append(f"**This verdict is out of date:** {shown(stale)}. Run `python validate.py`, then "
                     "`python report.py`.")
    return page(f"# Challenger against {facts.opponent}: {verdict_word(duel)}", *parts)


def verdict_word(figures: dict | None) -> str:
    if figures is None:
        return "no verdict yet"
    return {True: "accepted", False: "not accepted"}.get(figures.get("accepted"), "too few to tell")


def mean_score(facts: Facts) -> str:
    duel = facts.duel or {}
    if duel.get("mean_score") is None:
        return "–"
    low, high = (duel.get("interval") or [None, None])[:2]
    level = f"{100 - 200 * duel['alpha']:g} % " if duel.get("alpha") else ""
    return f"**{number(duel.get('mean_score'))}** of 100, {level}interval {number(low)} to {number(high)}"


def numbers(facts: Facts) -> str:
    duel, plan, parsed, export = facts.duel or {}, facts.plan, facts.parsed, facts.export
    answered = sum(turn.path is not None for turn in facts.turns)
    in_bucket = [(name, facts.buckets[name]) for name in BUCKETS]
    rest = "".join(f", {facts.statuses[status]:,} {status}" for status in _NEXT if facts.statuses[status])
    rows = [
        ("turns", f"{answered:,} answered, **{len(parsed):,} parsed**{rest}"),
        ("spread over", f"{count(len({turn.instance_id for turn in parsed}), 'instance')} in "
         f"{count(len({turn.repo for turn in parsed}), 'repo')} (parsed turns)"),
        ("mean score", f"{mean_score(facts)}; 50 = level with the {facts.opponent}"),
        ("margin", f"{number(duel.get('margin'))} points (challenger − {facts.opponent}), at least "
         f"{number(duel.get('win_margin'))} asked for; lower bound of the mean score above 50: "
         f"{number(duel.get('lcb'))}, more than 0 asked for" if duel.get("margin") is not None else "–"),
        ("buckets", ", ".join(f"[{name}/](../{name}) {n:,} ({percent(n, len(parsed))})" for name, n in in_bucket)
         + f"; final from {_FINAL_MIN} points, defeat below {_DEFEAT_MIN}"),
        ("export", "left as it is" if export is None else export_words(export, "../export/")),
        ("dataset", shown(f"{dataset_name(plan)}, revision {plan.get('revision') or 'not known'}, "
                          f"seed {plan.get('seed', 'not known')}") if plan else "prompt/\\_plan.json is missing"),
        ("sample", sample_words(plan.get("summary"))),
        ("judged at", shown(duel.get("made_at") or "–")),
    ]
    spent = [(f"{side} by {models(facts, side)}", len(metas), *_spent(metas)) for side, metas in facts.sides.items()]
    panel = duel.get("judges") or {}
    spent += [(f"judge {shown(judge)}", row.get("calls"), *_spent([row])) for judge, row in panel.items()]
    spent.append(("together", sum(row[1] or 0 for row in spent),
                  *_spent([*facts.sides["king"], *facts.sides["challenger"], *panel.values()])))
    return page("## The numbers that matter", table("what | figure", rows),
                table("model | replies # | tokens in # | tokens out # | cost #", spent))


def export_words(export: Export, where: str = "") -> str:
    rows = ", ".join(f"[{name}]({where}{name}) {n:,}" if where else f"{name} {n:,}" for name, n in export.rows.items())
    held = f"; {export.held_back:,} held back for breaking the protocol" if export.held_back else ""
    return f"{rows or 'no row yet'}; {count(export.duplicates, 'near-duplicate')} dropped{held}"


def models(facts: Facts, side: str) -> str:
    """The models that were asked, and who answered in their name where the provider says that it was another."""
    asked = dict.fromkeys((str(meta.get("model")), str(meta.get("model_answered") or "")) for meta in facts.sides[side])
    return ", ".join(shown(model) + (f" (answered by: {shown(answered)})" if answered not in ("", model) else "")
                     for model, answered in asked) or "–"


def _spent(metas: list[dict]) -> tuple[int, int, str]:
    """Tokens in, tokens out, and dollars as far as the prices are known."""
    total, prices = Counter(), [meta["cost_usd"] for meta in metas if isinstance(meta.get("cost_usd"), (int, float))]
    for usage in (meta.get("usage") for meta in metas):
        total.update({key: n for key, n in usage.items() if isinstance(n, int)} if isinstance(usage, dict) else {})
    cost = f"{'at least ' if len(prices) < len(metas) else ''}{sum(prices):,.2f} USD" if prices else "not known"
    return total["prompt_tokens"], total["completion_tokens"], cost


def sample_words(summary: dict | None) -> str:
    """What prompt.py says of its sample."""
    if not isinstance(summary, dict):
        return "–"
    parts = [count(summary[f"{what}s"], what) for what in ("prompt", "instance", "repo")
             if isinstance(summary.get(f"{what}s"), int)]
    for key in ("thirds", "languages"):
        if isinstance(summary.get(key), dict):
            parts.append(", ".join(f"{shown(name)} {number(n)}" for name, n in list(summary[key].items())[:8]))
    return "; ".join(parts) or "–"


def dataset_name(plan: dict) -> str:
    """The dataset as one may publish it: a Hub id, or of a local path only its last part."""
    name = str(plan.get("dataset") or "not known")
    local = name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists() or "*" in name
    return f"local files {Path(name).name}" if local else name


# Score ranges of the histogram, best first: (from, up to but without). 100 falls into the first.
_RANGES = ((90, 101), (80, 90), (70, 80), (66, 70), (60, 66), (50, 60), (40, 50), (30, 40), (20, 30), (10, 20), (0, 10))
_MARKS = {_FINAL_MIN: "final above", _DEFEAT_MIN: "refined above, defeat below"}
_DRAWN = 50  # bars at most


def score_chart(facts: Facts) -> str:
    """Mermaid for viewers that draw it, and the same as text."""
    turns = sorted(facts.parsed, key=lambda turn: -turn.score)
    if not turns:
        return "## Scores\n\nNo turn is parsed yet."
    in_range = [sum(low * t.max_points <= 100 * t.points < high * t.max_points for t in turns) for low, high in _RANGES]
    lines = ["score        turns"]
    for (low, high), n in zip(_RANGES, in_range):
        bar = "█" * round(30 * n / max(in_range)) or ("▏" if n else "")
        lines.append(f"{low:>3} to {min(high, 100):<3}  {n:>6}  {bar}".rstrip())
        if low in _MARKS:
            lines.append(f"----- {low} --- {_MARKS[low]} ".ljust(50, "-"))
    drawn = min(len(turns), _DRAWN)  # a bar for each turn of a small run, quantiles of a large one
    heights = [turns[int((place + 0.5) * len(turns) / drawn)].score for place in range(drawn)]
    chart = ["```mermaid",
             '%%{init: {"themeVariables": {"xyChart": {"plotColorPalette": "#8fb3d9, #2e8b57, #c0392b"}}}}%%',
             "xychart-beta",
             f'  title "Score of each turn, with lines at {_FINAL_MIN} (final) and {_DEFEAT_MIN} (refined)"',
             f'  x-axis "{len(turns):,} turns, best first" 1 --> {len(turns)}',
             '  y-axis "score" 0 --> 100',
             f"  bar [{', '.join(f'{height:.1f}' for height in heights)}]",
             *(f"  line [{', '.join([str(threshold)] * drawn)}]" for threshold in (_FINAL_MIN, _DEFEAT_MIN)), "```"]
    return page("## Scores", "\n".join(chart) if drawn > 1 else "", "\n".join(["```text", *lines, "```"]))


# When a point to look at is raised. Chosen to speak up early: a point asks for a look, no more.
_FEW_INSTANCES = 20  # below, intervals over resampled instances are rough
_LOW_PARSE_RATE = 0.95
_LOW_CONSISTENCY = 0.5  # GPT-4 in MT-Bench: 0.65; a coin among three calls: 0.33
_STRONG_PULL = 0.15  # in one order alone, such a pull accepts most duels between equals
_LENGTH_GAP = 15  # score points between longer and shorter challengers
_MANY_IDENTICAL = 0.1  # of the parsed turns


def points_to_look_at(facts: Facts) -> str:
    """Whether to trust the run and what to change: only what its figures give reason for."""
    points = [*_points_of_the_panel(facts.duel or {}), *_points_of_the_turns(facts)]
    return page("## Points to look at",
                "\n".join(f"- {point}" for point in points) or "Nothing in these figures stands out.")


def _points_of_the_panel(duel: dict) -> Iterator[str]:
    for judge, row in (duel.get("judges") or {}).items():
        name, rate, steady, pull = (shown(judge), row.get("parse_rate"), row.get("position_consistency"),
                                    row.get("pull") or 0)
        if rate is not None and rate < _LOW_PARSE_RATE:
            yield (f"**{name} is often unreadable** ({percent(rate)} parsed). A larger max_tokens in its override in "
                   "chain.toml often mends that.")
        if steady is not None and steady < _LOW_CONSISTENCY:
            yield (f"**{name} is unsteady**: the same call in both orders in only {percent(steady)} of cases. Both "
                   "orders are averaged, so this costs sharpness, not fairness; consider another judge.")
        if abs(pull) > _STRONG_PULL:
            yield (f"**{name} is pulled toward the {'second' if pull > 0 else 'first'} reply** ({pull:+.2f} of −1 to 1)."
                   " Both orders are averaged, which cancels it.")
    for judge, row in (duel.get("leave_one_out") or {}).items():
        if row.get("accepted") != duel.get("accepted"):
            yield f"**The verdict hangs on {shown(judge)}**: without it the run would be: {verdict_word(row)}."
    alone = duel.get("without_generator")
    if alone and alone.get("accepted") != duel.get("accepted"):
        yield f"**The writer's own model decides**: the panel without it says: {verdict_word(alone)}."
    fraction = duel.get("parsed_frac")
    if fraction is not None and fraction < _LOW_PARSE_RATE:
        yield f"**Turns without a full verdict**: {percent(fraction)} are parsed. See *What is not done* below."


def _points_of_the_turns(facts: Facts) -> Iterator[str]:
    parsed, instances = facts.parsed, len({turn.instance_id for turn in facts.parsed})
    if 0 < instances < _FEW_INSTANCES:
        yield (f"**Few instances**: the scores rest on {count(instances, 'instance')}; under {_FEW_INSTANCES} the "
               "interval is rough. More prompts: `python prompt.py --count N`.")
    identical = ((facts.duel or {}).get("turns") or {}).get("identical") or 0
    if parsed and identical > _MANY_IDENTICAL * len(parsed):
        yield f"**{count(identical, 'turn')} with identical replies** count as draws and pull the mean to 50."
    longer, shorter, _ = _by_length(parsed).values()
    gap = _mean(turn.score for turn in longer) - _mean(turn.score for turn in shorter)
    if min(len(longer), len(shorter)) >= FEW and abs(gap) > _LENGTH_GAP:
        yield (f"**Length and score go together**: longer challengers score {gap:+.0f} points against shorter ones. It "
               "may be merit; read a few of both.")
    for turns, what, then in (
            ([turn for turn in facts.turns if turn.flags], "with text aimed at the judges",
             "Read them before you train on them: column *flags* of turns.csv."),
            ([turn for turn in parsed if turn.bucket == "final" and leaks_of(turn, "challenger")],
             "in final/ with leak hits", "`python ch.py` audits stored replies again and reopens those that fail."),
            ([turn for turn in parsed if turn.protocol], "whose challenger breaks the protocol of its chat",
             "None of them is in final/ or export/; `python ch.py` asks for them again.")):
        if turns:
            said = ", ".join(map(str, turns[0].flags)) if "judges" in what else turns[0].protocol
            yield f"**{count(len(turns), 'turn')} {what}**, such as {link(turns[0])}" + (
                f" ({shown(said)})" if said else "") + f". {then}"


def _by_length(turns: list[Turn]) -> dict[str, list[Turn]]:
    """The turns by the challenger's length against the king's."""
    found = {"longer by over a tenth": [], "shorter by over a tenth": [], "about as long": []}
    for turn in turns:
        own, other = len(turn.challenger), turn.king_chars
        name = "longer by over a tenth" if own > 1.1 * other else \
            "shorter by over a tenth" if other > 1.1 * own else "about as long"
        found[name].append(turn)
    return found


def judges(facts: Facts) -> str:
    duel = facts.duel or {}
    if not duel.get("judges"):
        return ""
    rows = []
    for judge, row in duel["judges"].items():
        left = (duel.get("leave_one_out") or {}).get(judge)
        pull = row.get("pull")
        rows.append((shown(judge), number(row.get("score")), percent(row.get("parse_rate")),
                     percent(row.get("position_consistency")), "–" if pull is None else f"{pull:+.2f}",
                     number(row.get("agreement"), 2),
                     f"{number(left.get('mean_score'))}, {verdict_word(left)}" if left else "–", _spent([row])[2]))
    agreement, alone = duel.get("agreement") or {}, duel.get("without_generator")
    return page(
        "## Judges", table("judge | score # | parsed # | same in both orders # | pull # | agreement # | "
                           "panel without it | cost #", rows),
        "Score: the challenger's, by this judge alone. Pull: from −1 (always the first reply shown) to +1 (always the "
        f"second). Agreement with the other judges; of the whole panel, {shown(agreement.get('name') or 'not named')}: "
        f"{number(agreement.get('value'), 2)} (1 = all say the same, 0 = chance).",
        f"Without the model that wrote the replies: mean score {number(alone.get('mean_score'))}, margin "
        f"{number(alone.get('margin'))}, {verdict_word(alone)}." if alone else "", retest(duel.get("retest") or {}))


def retest(again: dict) -> str:
    """How steady the scores are, when `validate.py --retest` has judged some turns twice."""
    if not again:
        return ("How steady these scores are is not known: `python validate.py --retest N` judges N turns a second "
                "time. Kept turns fall back when judged again, for they were chosen by a noisy score.")
    return (f"Judged a second time, {count(again.get('turns') or 0, 'turn')}: {number(again.get('verdicts_changed'))} "
            f"of {number(again.get('verdicts'))} verdicts changed, {number(again.get('buckets_changed'))} turns changed "
            f"their bucket. Of {number(again.get('kept'))} that were final, {number(again.get('kept_still'))} would be "
            f"again; their mean went from {number(again.get('kept_mean_first'))} to "
            f"{number(again.get('kept_mean_again'))}. It cost {_spent([again])[2]}.")


def metrics(facts: Facts) -> str:
    rows = []
    for name in facts.metrics:
        values = [turn.metrics[name] for turn in facts.parsed if turn.metrics.get(name) is not None]
        ahead, behind = sum(value > 50 for value in values), sum(value < 50 for value in values)
        mean = ((facts.duel or {}).get("metrics") or {}).get(name, _mean(values))
        rows.append((shown(name), number(mean), ahead, len(values) - ahead - behind, behind, "█" * round(mean / 5)))
    headers = "metric | mean score # | turns ahead # | level # | behind # | of 100"
    return page("## Metrics", table(headers, rows)) if rows else ""


_STEPS = (("reply 1", 1, 1), ("replies 2 to 3", 2, 3), ("replies 4 to 6", 4, 6), ("replies 7 to 10", 7, 10),
          ("reply 11 and later", 11, 10**9))
_REPOS_SHOWN = 15


def groups(facts: Facts) -> str:
    """Score by kind of turn: it shows where the challenger wins, not why."""
    parsed = facts.parsed
    if not parsed:
        return ""
    steps = [(name, [turn for turn in parsed if low <= turn.step <= high]) for name, low, high in _STEPS]
    repos = _grouped(parsed, "repo")
    return page(
        "## Where it wins", f"Groups of fewer than {FEW} turns are marked *few*: their means may well be chance.",
        "### By action style of the challenger", _group_table("style", _grouped(parsed, "style")),
        "### By position in the trajectory", _group_table("position", steps),
        "### By repo", _group_table("repo", repos[:_REPOS_SHOWN]),
        f"{len(repos) - _REPOS_SHOWN:,} more in [turns.csv](turns.csv)." if len(repos) > _REPOS_SHOWN else "",
        *(["### By length against the king", _group_table("challenger", _by_length(parsed).items())]
          if facts.mode == 2 else []))


def _grouped(turns: list[Turn], key: str) -> list[tuple[str, list[Turn]]]:
    """The turns by an attribute, the largest group first."""
    found = defaultdict(list)
    for turn in turns:
        found[getattr(turn, key)].append(turn)
    return sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))


def _group_table(what: str, named: Iterable[tuple[str, list[Turn]]]) -> str:
    rows = []
    for name, turns in named:
        kept = sum(turn.bucket == "final" for turn in turns)
        if turns:
            rows.append((shown(name), len(turns), _mean(turn.score for turn in turns),
                         f"{kept:,} ({percent(kept, len(turns))})", "*few*" if len(turns) < FEW else ""))
    return table(f"{what} | turns # | mean score # | final # |", rows)


def leak_audit(facts: Facts) -> str:
    """Hits in the challenger's stored replies beside the king's, which cannot have peeked: the false-alarm floor."""
    challenger, king, kinds = facts.audit["challenger"], facts.audit["king"], facts.leak_kinds
    if not challenger["audited"]:
        return page("## Leak audit", "No stored reply carries an audit: `python ch.py` audits them.")
    floor = (f"Of {count(king['audited'], 'king')}, which saw nothing hidden, {king['hit']:,} "
             f"({percent(king['hit'], king['audited'])}) do: that is the audit's false-alarm rate on this data.")
    return page(
        "## Leak audit",
        f"Of {count(challenger['audited'], 'challenger')} kept, **{challenger['hit']:,}** "
        f"({percent(challenger['hit'], challenger['audited'])}) have a hit. " + (floor if king["audited"] else ""),
        table("kind | challengers with a hit # | kings with a hit # | challenger replies refused for it #",
              ((shown(kind), *figures) for kind, *figures in kinds)) if kinds else "")


_NEXT = {  # what mends a turn of each status; in the order in which the stages are to be run
    "no answer": "put the answer back, or delete its score",
    "broken": "the stage of its folder: king.py or validate.py",
    "no challenger": "python ch.py", "not judged": "python validate.py", "unfinished": "python validate.py",
    "stale": "python validate.py", "parse-fail": "python validate.py --retry-failed",
}


def unfinished(facts: Facts) -> str:
    """What failed and what to run next."""
    rows, failed = [], defaultdict(list)
    through = {turn.stem for turn in facts.turns if turn.path} | facts.left_out.stems()
    waiting = [stem for stem in facts.left_out.prompts if stem not in through]
    if waiting and not facts.limit:
        rows.append(("no king", len(waiting), shown(waiting[0]), "`python king.py`"))
    for status, command in _NEXT.items():
        turns = [turn for turn in facts.turns if turn.status == status]
        if turns:
            rows.append((status, len(turns), link(turns[0]) + (f": {shown(turns[0].why)}" if turns[0].why else ""),
                         f"`{command}`" if command.startswith("python") else command))
    for row in failed_items():
        failed[str(row.get("stage") or ""), str(row.get("kind") or row.get("reason") or "")].append(row)
    return page(
        "## What is not done",
        table("turns | number # | such as | run", rows) if rows else "Every answered turn is judged.",
        "Failures of each stage's last run; the same stage, run again, goes on with just those:" if failed else "",
        table("stage | what | number # | such as", (
            (shown(stage), shown(kind), len(items), shown(f"{items[0].get('item')}: {items[0].get('reason')}", 240))
            for (stage, kind), items in sorted(failed.items()))) if failed else "",
        f"Left out on purpose or for want of a PR record: {count(len(facts.left_out.stems()), 'prompt')}; passed over "
        f"while sampling: {count(len(facts.left_out.sampling), 'instance')}. See [hugePR.md](hugePR.md).")


def turns_to_read(facts: Facts) -> str:
    """Every turn of a small run; of a large one the best, the worst and the most disputed."""
    turns = sorted(facts.parsed, key=lambda turn: (-turn.score, natural_key(turn.stem)))
    if not turns:
        return ""
    small = len(turns) <= WHOLE_TABLE_TURNS
    some = min(5, len(turns) // 3 or 1) if small else 20
    disputed = [turn for turn in sorted(turns, key=lambda turn: -turn.spread) if turn.spread][:some]
    return page(
        "## Turns worth reading", "### Best", _reasons(turns[:some]), "### Worst", _reasons(turns[::-1][:some]),
        *(["### Most disputed", "Where the judges are furthest apart.", _reasons(disputed)] if disputed else []),
        *(["## All turns", _turn_table(turns, facts)] if small else
          [f"## The best and the worst {some} by metric", _turn_table(turns[:some] + turns[-some:], facts),
           f"All {len(turns):,} turns: [turns.csv](turns.csv)."]))


def _reasons(turns: list[Turn]) -> str:
    return table("score # | turn | style | by judge # | one judge's reason", (
        (turn.score, link(turn), turn.style, "/".join(number(score, 0) for score in turn.by_judge.values()),
         shown(turn.reason, 240)) for turn in turns))


def _turn_table(turns: list[Turn], facts: Facts) -> str:
    headers = ["score # | bucket | file | instance | action style", *(f"{shown(name)} #" for name in facts.metrics)]
    return table(" | ".join(headers), ((turn.score, turn.bucket, link(turn), shown(turn.instance_id), turn.style,
                   *(number(turn.metrics.get(name), 0) for name in facts.metrics)) for turn in turns))


# ------------------------------------------------------------------------------------------- turns.csv and hugePR.md

def turns_csv(facts: Facts) -> str:
    """One line a turn. What a spreadsheet would run as a formula starts with an apostrophe."""
    rows = []
    for turn in facts.turns:
        rows.append({
            "stem": turn.stem, "file": turn.path.as_posix() if turn.path else "", "instance_id": turn.instance_id,
            "repo": turn.repo, "status": turn.status, "bucket": turn.bucket, "score": turn.score,
            "points": turn.points, "max_points": turn.max_points, "style": turn.style, "step": turn.step,
            "king_chars": turn.king_chars, "challenger_chars": len(turn.challenger),
            **{name: turn.metrics.get(name) for name in facts.metrics},
            **{f"judge {judge}": turn.by_judge.get(judge) for judge in facts.judges}, "spread": turn.spread,
            "leak_hits": len(leaks_of(turn, "challenger") or ()), "king_leak_hits": len(leaks_of(turn, "king") or ()),
            "flags": ", ".join(map(str, turn.flags)), "protocol": turn.protocol, "export": turn.exported,
            "reason": turn.reason, "why": turn.why})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_cell, rows[0]))
    writer.writerows(map(_cell, row.values()) for row in rows)
    return text.getvalue()


def _cell(value: object) -> str:
    text = "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value).replace("\0", "")
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def huge_pr(facts: Facts) -> str:
    """hugePR.md: what was left out and why, with sizes in characters."""
    left_out = facts.left_out

    def rows(found: list[dict], headers: str, *keys: str) -> str:
        cells = ((row.get(key) if isinstance(row.get(key), int) else shown(row.get(key) or "–") for key in keys)
                 for row in found)
        return table(headers, cells) if found else "None."

    return page(
        "# What was left out",
        f"Of {count(len(left_out.prompts), 'prompt')}, {len(left_out.stems()):,} got no king and no challenger.",
        "## Pull requests left out",
        f"A PR record goes into the challenger's prompt; over {facts.config.generate.max_record_chars:,} characters "
        "(`max_record_chars` in chain.toml's `[generate]`) it is left out, and so is every instance on the list of "
        "exclusions (`common/records.py`).",
        rows(left_out.too_large, "instance | repo | why | record chars # | of them patch # | prompts #",
             "instance_id", "repo", "why", "record_chars", "patch_chars", "prompts"),
        "## Passed over while sampling", "Drawn, and replaced by another draw.",
        rows(left_out.sampling, "instance | repo | why", "instance_id", "repo", "reason"),
        "## Prompts without a usable PR record",
        "`python prompt.py` fetches what is missing." if left_out.no_record else "",
        rows(left_out.no_record, "instance | repo | why | prompts #", "instance_id", "repo", "why", "prompts"))


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
3. The *challenger* reply was written with the task's hidden PR record at hand, under the rule to behave as an agent
   that has not seen it, and was refused when an audit found knowledge that the chat could not have given.
4. A panel judged the challenger against {opponent}, in both orders, by {metrics}.
   The judges saw neither the PR record nor who wrote what.
5. The challenger was kept from {kept_from} points of 100 on{refined}, unless it breaks its chat's own protocol
   ({held_back:,} held back). Of turns of one instance whose completions nearly repeat each other (sets of word triples
   with a Jaccard index of {jaccard:g} or more) only the best-scored one is kept ({duplicates:,} dropped).
6. Train and validation are split by repository, by a hash of its name: of all repositories about {validation} % go to
   validation (here {train_repos:,} in train, {validation_repos:,} in validation), and a turn never changes sides as the
   data grows.

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

Not stated by the tool that made this. The chats hold text of the repositories and of the source data, each under its
own terms. State the licence in the first lines of this file.
"""


def dataset_card(facts: Facts) -> str:
    duel, plan, export = facts.duel or {}, facts.plan, facts.export
    rows = export.rows["sft-train.jsonl"] + export.rows["sft-validation.jsonl"]
    agreement = duel.get("agreement") or {}
    figures = [
        ("king written by", models(facts, "king")), ("challenger written by", models(facts, "challenger")),
        ("judges", ", ".join(map(shown, facts.judges))),
        ("judged turns", f"{len(facts.parsed):,}"),
        ("their mean score", mean_score(facts)),
        ("verdict on the whole run", verdict_word(facts.duel)),
        ("agreement of the judges", f"{shown(agreement.get('name') or '–')} {number(agreement.get('value'), 2)}"),
        ("thresholds", f"final from {_FINAL_MIN}, refined from {_DEFEAT_MIN}, defeat below"),
        *((f"leak audit: {side}s with a hit", f"{found['hit']:,} of {found['audited']:,}")
          for side, found in facts.audit.items()),
    ]
    return _CARD.format(
        licence=_stated_licence(), size=_size_category(rows), configs=_card_configs(export),
        files="\n".join(f"- `{name}`: {count(n, 'row')}" for name, n in export.rows.items())
        or "No turn has reached the threshold yet: there is no data file.",
        dataset=shown(dataset_name(plan)), revision=shown(plan.get("revision") or "not known"),
        seed=shown(plan.get("seed", "not known")),
        opponent="the king" if facts.mode == 2 else "the source data's own next turn (the reference)",
        metrics=", ".join(map(shown, facts.metrics)),
        kept_from=_DEFEAT_MIN if "refined" in export.buckets else _FINAL_MIN,
        refined=_REFINED_WORDS if "refined" in export.buckets else "", jaccard=NEAR_DUPLICATE_JACCARD,
        duplicates=export.duplicates, held_back=export.held_back, validation=VALIDATION_PERCENT,
        train_repos=export.repos["train"], validation_repos=export.repos["validation"],
        figures=table("what | figure", figures))


_REFINED_WORDS = " (the refined turns included)"


def card_says_refined() -> bool:
    """Whether the card that lies in export/ speaks of refined turns too."""
    try:
        return _REFINED_WORDS in Path("export/README.md").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False


def _card_configs(export: Export) -> str:
    lines = ["configs:"] if export.rows else []
    for kind, default in (("sft", ["  default: true"]), ("dpo", [])):
        if export.rows:
            lines += [f"- config_name: {kind}", *default, "  data_files:"]
        for split in ("train", "validation"):
            if export.rows[f"{kind}-{split}.jsonl"]:
                lines += [f"  - split: {split}", f"    path: {kind}-{split}.jsonl"]
    return "".join(f"{line}\n" for line in lines)


def _size_category(rows: int) -> str:
    sizes = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (float("inf"), "100K<n<1M"))
    return next(name for limit, name in sizes if rows < limit)


def _stated_licence() -> str:
    """The licence lines of the card that lies in export/, so that what the user stated there is kept."""
    try:
        card = Path("export/README.md").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return _LICENCE_TO_STATE
    front = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    stated = re.findall(r"^license\w*:.*(?:\n(?:[ \t]|- ).*)*", front[1], re.MULTILINE) if front else []
    return "\n".join(stated) or _LICENCE_TO_STATE


# ----------------------------------------------------------------------------------------------------- tally, --check

def show_tally(facts: Facts, writer: Writer, tally: Tally) -> int:
    """Print what was done and what to run next; returns the exit code."""
    for turn in facts.turns:
        if turn.status not in ("parsed", "broken"):
            tally.skipped[f"{turn.status}: {_NEXT.get(turn.status, 'python validate.py')}"] += 1
    lines = [f"verdict {verdict_word(facts.duel)}"]
    if stale := facts.why_duel_is_stale():
        lines.append(f"stale   score/_duel.json: {stale}")
    if facts.limit:
        tally.done = len(facts.parsed)
    else:
        lines += ["buckets " + ", ".join(f"{name}/ {facts.buckets[name]:,}" for name in BUCKETS),
                  f"export  {export_words(facts.export)}"]
    lines += [f"aside   {path} was in the way and is not ours" for path in writer.aside]
    to_run = [command for status, command in _NEXT.items() if facts.statuses[status] and command.startswith("python")]
    if not to_run and (stale or facts.duel is None):
        to_run = ["python validate.py"]
    return tally.show(*lines, "report  report/report.md, report/turns.csv, report/hugePR.md",
                      next_command=f"{to_run[0]}, then python report.py" if to_run else "")


_CHECK_SHOWN = 20  # of each kind of fault


def show_check(facts: Facts, writer: Writer, tally: Tally) -> int:
    """Print what is torn, stale or out of place and which stage mends it; returns the exit code."""
    places, faults = defaultdict(list), defaultdict(list)
    for path in (path for folder in answer_folders() for path in turn_files(folder)):
        places[path.stem].append(str(path))
    for row in tally.failed:
        faults[row["kind"]].append(row["reason"])
    for turn in facts.turns:
        if turn.status in ("no answer", "stale"):
            faults[f"{turn.status}, mended by: {_NEXT[turn.status]}"].append(f"score/{turn.stem}.json: {turn.why}")
        if len(places[turn.stem]) > 1:
            faults["answered twice, mended by: delete one"].append(" and ".join(places[turn.stem]))
    if stale := facts.why_duel_is_stale():
        faults["stale verdict, mended by: python validate.py"].append(f"score/_duel.json: {stale}")
    ran = any(Path(folder).is_dir() for folder in ("report", "export", *BUCKETS))
    if ran and writer.stale:
        faults["stale bucket, export or report, mended by: python report.py"] = sorted(writer.stale, key=natural_key)
    for kind, found in faults.items():
        print(f"{kind}: {len(found):,}", *(f"  {line}" for line in found[:_CHECK_SHOWN]), sep="\n")
        if len(found) > _CHECK_SHOWN:
            print(f"  and {len(found) - _CHECK_SHOWN:,} more")
    _show_notes(facts, ran)
    if not faults:
        print(f"report.py --check: {count(len(facts.turns), 'turn')}, all that is here is whole and consistent.")
    return EXIT_SOME_FAILED if faults else EXIT_DONE


def _show_notes(facts: Facts, ran: bool) -> None:
    """What is no fault, yet good to know."""
    if not ran:
        print("note: report.py has not run here yet")
    if facts.duel is None:
        print("note: score/_duel.json is not there yet: python validate.py")
    for status in ("no challenger", "not judged", "unfinished", "parse-fail"):
        if facts.statuses[status]:
            print(f"note: {count(facts.statuses[status], 'turn')} {status}: {_NEXT[status]}")
    known = {turn.stem for turn in facts.turns if turn.path}
    for bucket in BUCKETS:
        if others := [path for path in turn_files(bucket) if path.stem not in known]:
            print(f"note: {bucket}/ holds {count(len(others), 'file')} that belong to no answer, such as {others[0]}")


if __name__ == "__main__":
    run(main)
