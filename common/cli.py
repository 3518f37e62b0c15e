"""The command line that all stages share: flags, exit codes, signals, progress, the tally."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from common import start
from common.files import BadFile, UserError, printable, write_bytes

EXIT_DONE = 0
EXIT_SOME_FAILED = 1
EXIT_STOPPED = 2
EXIT_INTERRUPTED = 130
INTERRUPTED = "interrupted; what was finished is saved, the same line goes on from here"
STAGES = ("prompt.py", "king.py", "ch.py", "validate.py", "report.py")
NOTHING_USABLE = "a model gives nothing usable"  # kind of the items of a model that is left
STOPPING = (UserError, BadFile, OSError, ModuleNotFoundError)  # they end a stage, exit 2
LOG_EVERY_S = 15  # where there is no terminal: often enough to see life, rare enough for a log


def parser(doc: str, *, calls: bool = False) -> ArgumentParser:
    """Return the flags of a stage, with `calls` of one that asks models; `doc` is its help."""
    flags = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    add = flags.add_argument
    add("--limit", type=whole_number, metavar="N", help="a trial: the first N turns that need work")
    if calls:
        add("--concurrency", type=whole_number, metavar="N", help="calls at once per model, most")
        add("--shard", type=shard, metavar="I/N", help="only the I-th of N parts, I from 0")
        add("--dry-run", action="store_true", help="say what is ahead and its cost; no paid calls")
        add("--max-cost", type=dollars, metavar="DOLLARS", help="spend no more in this run")
        add = flags.add_mutually_exclusive_group().add_argument
        add("--batch", action="store_true", help="send as batches, collect when run again")
        add("--batch-files", action="store_true", help="write batch/*.jsonl, send nothing")
    return flags


def whole_number(text: str) -> int:
    if not re.fullmatch(r"0*[1-9][0-9]{0,17}", text):  # fits into 64 bits
        raise ArgumentTypeError(f"expected 1 or more, of at most 18 digits, found {text[:40]!r}")
    return int(text)


def shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not match or int(match[1]) >= int(match[2]):
        raise ArgumentTypeError(f"expected I/N, I from 0 and below N, found {text[:40]!r}")
    return int(match[1]), int(match[2])


def dollars(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"expected dollars, above 0, found {text[:40]!r}")
    return value


def run(main: Callable[[], int]) -> None:
    """Run a stage's `main` and leave with its exit code; what stops it is told in a line or two."""
    start.handle_signals(signal.default_int_handler)
    words = ""
    code = EXIT_STOPPED
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        words = INTERRUPTED
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader left (head): no one is there to read more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except STOPPING as problem:
        words = stop_words(problem)
    if words:
        print(printable(f"{Path(sys.argv[0]).name}: {words}"), file=sys.stderr)
    start.handle_signals(signal.SIG_IGN)  # the code is decided
    sys.exit(code)


def stop_words(error: Exception) -> str:
    """Return what one of STOPPING says; of a disk also what it refused, and what to do."""
    if isinstance(error, ModuleNotFoundError):
        return start.install_words(error)
    if not isinstance(error, OSError):
        return str(error)
    refused = error.strerror or str(error)
    if error.filename:
        refused = f"{error.filename}: {refused}"
    to_do = "Bring it back" if isinstance(error, FileNotFoundError) else "Make room or give access"
    return f"{refused}\nNothing is torn. {to_do}, then run the same line again."


class Progress:
    """Progress on stderr: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self, total: int, what: str, unit: str = "turn"):
        self.total = total
        self.n = 0
        self._what = what
        self._unit = unit
        self._started = self._printed = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm  # here, because `--help` and logs need none

            self._bar = tqdm(total=total, desc=what, unit=unit, dynamic_ncols=True, smoothing=0.05)

    def update(self, count: int = 1, **notes: object) -> None:
        """Count `count` items as through; show `notes`, such as failed=2 or at_once=16."""
        self.n += count
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix(notes, refresh=False)
            self._bar.update(count)
        elif now - self._printed >= LOG_EVERY_S:
            self._printed = now
            ahead_s = (now - self._started) * (self.total - self.n) / max(1, self.n)
            words = f"{self._what}: {self.n}/{self.total} {self._unit}s, ETA {clock(ahead_s)}"
            self.say(words + "".join(f", {name}={value}" for name, value in notes.items()))

    def say(self, words: str) -> None:
        """Print a line that does not break the bar."""
        write = print if self._bar is None else self._bar.write
        write(printable(words), file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def steps_from(stage: str, shard: tuple[int, int] | None = None) -> str:
    """Return what to run from a stage to the last, a step a line; a shard's wait for the others."""
    steps = [f"python {name}" for name in STAGES[STAGES.index(stage) :]]
    if shard:
        steps[0] += "  # once all shards are through"
    return "\n".join(steps)


class Tally:
    """What became of a stage's items: done, skipped and failed by reason; printed at the end."""

    def __init__(self, stage: str):
        self.stage = stage
        self.done = 0
        self.skipped: Counter = Counter()
        self.failed: list[dict] = []
        self.waiting = 0  # items that a batch is to bring
        self.left = 0  # items that a run which was stopped did not get to
        self.stopped = False  # by something that the user has to change first
        self._started = time.monotonic()

    def fail(self, item: str, kind: str, detail: str = "", lasting: bool = False, **more) -> None:
        """Count a failed item by `kind`; `lasting`: the same line again would fail alike."""
        row = {"item": item, "stage": self.stage, "kind": kind, "reason": detail or kind}
        self.failed.append({**row, "lasting": lasting, **more})

    def failed_before(self, folder: Path | str) -> str:
        """Return the rows of what this stage's last run in a folder failed at, as text."""
        mark = f'"stage": {json.dumps(self.stage)},'
        texts = [path.read_text("utf-8", "replace") for path in Path(folder).glob("_failed*.jsonl")]
        return "\n".join(row for row in "".join(texts).splitlines() if mark in row)

    def write_failed(self, folder: Path | str, shard: tuple[int, int] | None = None) -> None:
        """Replace this stage's rows in the folder's list, or its shard's list, of failed items."""
        part = f"_{shard[0]}_of_{shard[1]}" if shard else ""
        path = Path(folder, f"_failed{part}.jsonl")
        mark = f'"stage": {json.dumps(self.stage)},'
        try:
            lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
            lines = [line for line in lines if mark not in line]
            lines += map(json.dumps, self.failed)
            if lines:
                write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
            else:
                path.unlink(missing_ok=True)
            for path in [] if shard else Path(folder).glob("_failed_*_of_*.jsonl"):
                path.unlink()
        except OSError as error:  # the tally comes all the same
            print(f"{path} could not be written: {error.strerror}", file=sys.stderr)

    def show(self, *lines: str, next_command: str = "", code: int = EXIT_DONE) -> int:
        """Print the tally, `lines` and what to run next; return `code`, or 1 where items failed."""
        counts = f"{self.done} done, {self.skipped.total()} skipped, {len(self.failed)} failed"
        if self.left:
            counts += f", {self.left} not reached"
        if self.waiting:
            counts += f", {self.waiting} waiting for a batch"
        shown = [f"{self.stage}: {counts} in {clock(time.monotonic() - self._started)}"]
        for reason, count in (+self.skipped).most_common():  # no zeros
            shown.append(f"  skipped {count:>6}  {reason}")
        kinds = Counter(row["kind"] for row in self.failed)
        for kind, count in kinds.most_common():
            first = next(row for row in self.failed if row["kind"] == kind)
            words = f"{kind} (such as {first['item']}: {first['reason'][:160]})"
            shown.append(f"  failed  {count:>6}  {words}".replace("\n", " "))
        shown += [f"  {line}" for line in lines]
        if self.stopped:
            next_command = "change what is said above, then the same line again"
        elif self.waiting:
            next_command = "the same line again collects what is finished"
        elif self.failed and not self.left and all(row["lasting"] for row in self.failed):
            shown.append("  note    the failed ones would fail alike again: _failed.jsonl says why")
            next_command = next_command or "the next stage goes on with the others"
        elif self.failed or self.left:
            steps = [f"python {name}" for name in STAGES if f"run {name} again" in str(kinds)]
            steps.append("the same line again: it asks only for what is missing")
            next_command = "\n".join(steps)
        if next_command:
            shown.append("  next    " + next_command.replace("\n", "\n          "))
        print(printable("\n" + "\n".join(shown)))
        return code or (EXIT_SOME_FAILED if self.failed else EXIT_DONE)
