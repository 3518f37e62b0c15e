"""Stage 5: sort the judged turns into buckets, report on the run, and write training files.

Run:     python report.py                  the whole job
         python report.py --with-refined   export/ holds refined/ as well as final/
         python report.py --max-tokens N   export/ without rows that are longer
         python report.py --distill        export/ has the PR records, too, to distil from
         python report.py --limit N        a trial: report/ over the first N turns; buckets and
                                           export/ stay as they are

Reads:   prompt/ commit/ answer_*/ score/
Writes:  report/report.md    the verdict, what to do next, what to look at, the numbers behind it
         report/turns.html   the page to read every turn on, and to label some
         report/turns.csv    every turn
         report/hugePR.md    what was left out, and why
         final/ refined/ defeat/   copies of answers plus score, metrics, reason; a parsed turn
                                   lies in exactly one
         export/             sft-, dpo-, chat- and tools-*.jsonl, and a dataset card that says
                             how to train on them

What it writes follows from what it reads and from nothing else: an unchanged run rewrites no file.
No network, no key.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take a second
    from common.start import begin

    begin()

import gc
import os
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

from common import files, turns
from common.cli import Progress, Tally, parser, run, whole_number
from common.config import Config, load_config
from common.files import BadFile, UserError, natural_key
from common.report import turns_page
from common.report.exports import Export, export_text, export_training
from common.report.left_out import LeftOut, fail_torn, huge_pr_page, read_left_out
from common.report.outputs import in_processes, written_anew
from common.report.report_page import CARD, Facts, dataset_card, page_lines, report_page
from common.report.rows import Row, Turn, count_verdicts_and_costs, read_turn, turns_csv
from common.turns import BUCKETS, Status
from common.turns import DEFEAT_MIN as _DEFEAT_MIN
from common.turns import FINAL_MIN as _FINAL_MIN

TURNS_A_PART = 50  # that a process reads before it hands them on


def main() -> int:
    options = parser(__doc__)
    add = options.add_argument
    add("--with-refined", action="store_true", help="export refined/ as well as final/")
    add("--max-tokens", type=whole_number, metavar="N", help="export no longer row, records aside")
    add("--distill", action="store_true", help="export the PR records, too: they hold the patches")
    flags = options.parse_args()
    tally = Tally("report.py")
    config = load_config()
    stems = find_stems(flags.limit)
    folders = ["report"] if flags.limit else ["report", *BUCKETS]
    with files.lock_folders([Path(folder) for folder in folders], "report"):
        patch_chars = config.generate.max_patch_chars if flags.distill else None
        kept_from = _DEFEAT_MIN if flags.with_refined else _FINAL_MIN
        export = Export(kept_from, flags.max_tokens, patch_chars)
        facts = read_run(stems, config, flags.limit, export, tally)
        made = {}
        if not flags.limit:
            export_training(facts.rows, export)
            made[CARD] = dataset_card(facts)
        judges = list(facts.duel["judges"])
        shown = [row for row in facts.rows if row.texts]
        charts = turns_page.make_charts(shown, facts.counts, judges)
        title = f"Challenger against {facts.opponent}: {facts.verdict}"
        made["report/turns.csv"] = turns_csv(facts.rows, judges, export.fates)
        made["report/hugePR.md"] = huge_pr_page(facts.left_out, facts.rows)
        made["report/report.md"] = report_page(facts)
        made["report/turns.html"] = turns_page.page_html(
            title, page_lines(facts), shown, export.fates, charts
        )
        for path, text in made.items():
            with written_anew(path) as file:
                file.write(files.clean_text(text).encode())
        tally.write_failed("report")
    return show_tally(facts, tally)


# ------------------------------------------------------------------------------------------ turns


def find_stems(limit: int | None) -> list[str]:
    """Return every answered or scored turn; the first `limit` of the scored ones."""
    scored = [path.stem for path in files.turn_files("score")]
    if not scored:
        raise UserError("score/ holds no judged turn: run python validate.py, then this again.")
    answered = turns.answer_files()
    if not answered:
        raise UserError("answer_*/ hold no turn: put them back, or run python king.py.")
    return scored[:limit] if limit else sorted({*answered, *scored}, key=natural_key)


def read_run(
    stems: list[str], config: Config, limit: int | None, export: Export, tally: Tally
) -> Facts:
    """Read all that this stage speaks of. What is torn is a failure of the tally."""
    duel = {}
    plan = {}
    try:
        duel = turns.read_duel() or {}
    except BadFile as bad:
        fail_torn(tally, "_duel", "validate.py", bad)
    try:
        plan = turns.read_plan("prompt") or {}
    except BadFile as bad:
        fail_torn(tally, "_plan", "prompt.py", bad)
    left_out = read_left_out(plan, config, tally)
    rows = []
    counts = Counter()
    shown = set(stems[: turns_page.MOST_TURNS])
    read = partial(read_turns, shown=shown, left_out=left_out, to_buckets=not limit)
    parts = [stems[at : at + TURNS_A_PART] for at in range(0, len(stems), TURNS_A_PART)]
    gc.disable()  # nothing here holds cycles: to look for some costs a tenth of the time
    with in_processes(read, parts, len(stems)) as results:
        progress = Progress(len(stems), "reading")
        for part, counts_of_part in results:
            rows += part
            counts.update(counts_of_part)
            for row in part:
                if row.mended_by:
                    fail_torn(tally, row.stem, row.mended_by, row.why)
            progress.update(len(part), failed=len(tally.failed))
        progress.close()
    gc.freeze()  # nor are they looked for at the end
    labels = turns_page.compare_labels(turns_page.read_labels(), rows)
    torn = {row["mended_by"] for row in tally.failed}
    return Facts(rows, counts, left_out, duel, plan, config, limit, labels, torn, export)


def read_turns(
    stems: list[str], shown: set[str], left_out: LeftOut, to_buckets: bool
) -> tuple[list[Row], Counter]:
    """Read some turns, each once: what needs its texts is made at once, the page's of `shown`."""
    folders = turns.answer_folders()
    rows = []
    counts = Counter()
    for stem in stems:
        turn = read_turn(stem, _find_answer(stem, folders), left_out)
        rows.append(turn.row)
        count_verdicts_and_costs(counts, turn)
        if turn.row.challenger_chars and stem in shown:
            turns_page.pack_texts(turn, len(shown))
        if to_buckets:
            sort_into_bucket(turn)
    return rows, counts


def _find_answer(stem: str, folders: list[Path] | None = None) -> Path | None:
    """Return the answer file of a turn; of several folders see `first_filled`."""
    paths = [folder / f"{stem}.json" for folder in folders or turns.answer_folders()]
    paths = [path for path in paths if path.is_file()]
    return turns.first_filled(paths) if paths else None


# ---------------------------------------------------------------------------------------- buckets


def export_to(bucket: str, turn: Turn) -> None:
    """Copy a turn's answer into a bucket, with score, metrics and reason."""
    row = turn.row
    reason = f"Held back from final/: {row.unfit}. {row.reason}" if row.held_back else row.reason
    judged = {"score": row.score, "metrics": row.metrics, "reason": reason}
    copy = files.json_bytes({**turn.answer, **judged})
    path = Path(bucket, f"{row.stem}.json")
    if path.exists():
        if path.read_bytes() == copy:
            return
        if not is_bucket_copy(path):
            row.aside = files.quarantine(path)
    files.write_bytes(path, copy, durable=False)


export_final = partial(export_to, "final")  # what the panel reliably prefers
export_refined = partial(export_to, "refined")  # preferred less clearly, or held back from final/
export_defeat = partial(export_to, "defeat")  # the rest of what was judged
EXPORTS = {"final": export_final, "refined": export_refined, "defeat": export_defeat}


def sort_into_bucket(turn: Turn) -> None:
    """Put a turn into its bucket and take it out of the others.

    In this order: a kill leaves it in two, for the next run to fix, and never in none. A copy whose
    answer is gone or torn stays: it may be the last.
    """
    row = turn.row
    if row.bucket:
        EXPORTS[row.bucket](turn)
    for name in BUCKETS:
        path = f"{name}/{row.stem}.json"
        is_there = name != row.bucket and turn.answer and os.path.exists(path)
        if is_there and is_bucket_copy(Path(path)):
            os.unlink(path)


def is_bucket_copy(path: Path) -> bool:
    """Tell whether a file is a copy that this stage wrote, by what it holds."""
    with suppress(BadFile, OSError):
        return bool(files.read_json(path, (*turns.ANSWER_KEYS, "score", "metrics", "reason")))
    return False


# ------------------------------------------------------------------------------------------ tally


def show_tally(facts: Facts, tally: Tally) -> int:
    """Print what was done and what to run next; return the exit code."""
    tally.done = len(facts.parsed)
    for status, step in facts.next_step.items():
        if status != Status.BROKEN:  # those have failed
            tally.skipped[f"{status}: {step}"] = facts.statuses[status]
    excluded = facts.statuses[Status.EXCLUDED]
    tally.skipped[f"{Status.EXCLUDED}: report/hugePR.md says why"] = excluded
    lines = [f"verdict {facts.verdict}"]
    if facts.stale:
        lines.append(f"stale   score/_duel.json: {facts.stale}")
    if not facts.limit:
        lines.append(f"buckets {facts.bucket_words}")
        lines.append("export  " + export_text(facts.export).replace("\n", "\n          "))
    aside = [row.aside for row in facts.rows if row.aside]
    lines += [f"aside   {path} was in the way and is not ours" for path in aside]
    lines.append("report  report/report.md; to read every turn: report/turns.html, in any browser")
    return tally.show(*lines, next_command="\n".join(facts.steps))


if __name__ == "__main__":
    run(main)
