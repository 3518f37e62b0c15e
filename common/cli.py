"""The command line that all stages share: flags, exit codes, progress, the tally at the end."""
from __future__ import annotations

import argparse
import errno
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from common.files import BadFile, UserError, write_jsonl

EXIT_DONE, EXIT_SOME_FAILED, EXIT_STOPPED, EXIT_INTERRUPTED = 0, 1, 2, 130
_PLAIN_LINE_EVERY_S = 15  # without a terminal: often enough to see life, rare enough for a log


# ---------------------------------------------------------------------------------------------------------- flags

def parser(doc: str, *, calls: bool = False) -> argparse.ArgumentParser:
    """The stage's flags: `--limit` everywhere, those of a stage that calls a model with `calls`. `--help` is `doc`."""
    flags = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--limit", type=whole_number, metavar="N",
                       help="a small trial: only the first N turns that still need work")
    if calls:
        flags.add_argument("--concurrency", type=whole_number, metavar="N",
                           help="calls at once per model, at most (default: chain.toml)")
        flags.add_argument("--shard", type=shard, metavar="I/N", help="only the I-th of N parts, I from 0")
        flags.add_argument("--dry-run", action="store_true",
                           help="say how many calls, tokens and dollars are ahead; send nothing that costs")
        flags.add_argument("--max-cost", type=dollars, metavar="DOLLARS",
                           help="stop before the next call could pass this sum")
    return flags


def whole_number(text: str) -> int:
    """A flag's value of 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def shard(text: str) -> tuple[int, int]:
    """`I/N` as (I, N), 0 <= I < N."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise argparse.ArgumentTypeError(f"expected I/N with 0 <= I < N, such as 0/4, found {text!r}")
    return int(match[1]), int(match[2])


def dollars(text: str) -> float:
    """A sum of money above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a sum in dollars above 0, found {text!r}")
    return value


# ------------------------------------------------------------------------------------------------------ exit codes

def run(main) -> None:
    """Run a stage's `main() -> int` and leave with its exit code; told errors become one or two lines and code 2."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        code = main()
        sys.stdout.flush()
    except (UserError, BadFile) as stop:
        code = _told(str(stop), EXIT_STOPPED)
    except KeyboardInterrupt:
        code = _told("interrupted; what was finished is saved, the same line goes on from here", EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left (head): nothing to tell
        code = EXIT_STOPPED
    except OSError as error:
        code = _told(disk_words(error), EXIT_STOPPED)
    sys.exit(code)


def disk_words(error: OSError) -> str:
    """A disk's or a file system's refusal in plain words."""
    where = error.filename or "the output folder"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left to write {where}; nothing is torn.\nFree some space, then run the same line again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to use {where}.\nMake it readable and writable, then run the same line again."
    return f"{where}: {error.strerror or error}"


def _as_interrupt(*_):
    raise KeyboardInterrupt


def _told(words: str, code: int) -> int:
    print(f"{Path(sys.argv[0]).name}: {words}", file=sys.stderr)
    return code


# -------------------------------------------------------------------------------------------------------- progress

class Progress:
    """A bar with rate, ETA and notes on a terminal; elsewhere a plain line now and then (both on stderr)."""

    def __init__(self, total: int, what: str, unit: str = "turn"):
        self.total, self.what, self.unit = total, what, unit
        self.done, self.notes = 0, {}
        self._started = self._last_line = time.monotonic()
        self._bar = tqdm(total=total, desc=what, unit=unit, dynamic_ncols=True, file=sys.stderr,
                         smoothing=0.05) if sys.stderr.isatty() else None

    def update(self, count: int = 1, **notes: object) -> None:
        """Count `count` items as through and show `notes`, such as failed=2 or at_once=16, beside the bar."""
        self.done += count
        self.notes.update(notes)
        if self._bar is not None:
            self._bar.set_postfix(self.notes, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= _PLAIN_LINE_EVERY_S:
            self._last_line = time.monotonic()
            print(self._line(), file=sys.stderr, flush=True)

    def say(self, words: str) -> None:
        """A line of words that does not break the bar."""
        if self._bar is not None:
            self._bar.write(words, file=sys.stderr)
        else:
            print(words, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _line(self) -> str:
        rate = self.done / max(time.monotonic() - self._started, 1e-9)
        left_s = (self.total - self.done) / rate if rate else 0
        notes = "".join(f", {name.replace('_', ' ')} {value}" for name, value in self.notes.items())
        return (f"{self.what}: {self.done}/{self.total} {self.unit}s, {rate:.1f}/s, "
                f"ETA {tqdm.format_interval(left_s)}{notes}")


# ----------------------------------------------------------------------------------------------------------- tally

def _failed_rows(path: Path) -> list[dict]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (FileNotFoundError, ValueError):
        return []


class Tally:
    """What became of a stage's items: done, skipped and failed by reason; printed at the end of every run."""

    def __init__(self, stage: str):
        self.stage, self.done, self.skipped, self.failed = stage, 0, Counter(), []
        self.left = 0  # items that a run which was stopped did not get to
        self._started = time.monotonic()

    def fail(self, item: str, kind: str, detail: str = "") -> None:
        """`kind` groups failures in the tally (a few words); `detail` is the whole reason, kept in _failed.jsonl."""
        self.failed.append({"item": item, "stage": self.stage, "kind": kind, "reason": detail or kind})

    def write_failed(self, folder: Path | str, shard: tuple[int, int] | None = None) -> None:
        """Replace this stage's rows in the folder's list of failed items; without any row there is no list.

        Shards that share a folder each keep a list of their own; a run of the whole does away with them.
        """
        path = Path(folder, f"_failed_{shard[0]}_of_{shard[1]}.jsonl" if shard else "_failed.jsonl")
        rows = [row for row in _failed_rows(path) if row.get("stage") != self.stage] + self.failed
        if rows:
            write_jsonl(path, rows)
        else:
            path.unlink(missing_ok=True)
        for other in Path(folder).glob("_failed_*_of_*.jsonl") if shard is None else ():
            other.unlink()

    def show(self, *lines: str, next_command: str = "") -> int:
        """Print the tally, then `lines`, then the next command; returns the exit code, 0 or 1."""
        seconds = time.monotonic() - self._started
        left = f", {self.left} not reached" if self.left else ""
        print(f"\n{self.stage}: {self.done} done, {sum(self.skipped.values())} skipped, "
              f"{len(self.failed)} failed{left} in {tqdm.format_interval(seconds)}")
        for reason, count in (+self.skipped).most_common():  # + drops what was counted zero times
            print(f"  skipped {count:>6}  {reason}")
        for kind, count in Counter(row["kind"] for row in self.failed).most_common():
            example = next(row for row in self.failed if row["kind"] == kind)
            print(f"  failed  {count:>6}  {kind} (such as {example['item']}: {example['reason'][:160]})")
        for line in lines:
            print(f"  {line}")
        if self.failed or self.left:
            print("  next    the same line again: it asks only for what is missing")
        elif next_command:
            print(f"  next    {next_command}")
        return EXIT_SOME_FAILED if self.failed else EXIT_DONE
