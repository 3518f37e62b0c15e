"""Stage 5: sort the judged turns into buckets, report on the run, and write training files.

Run:     python report.py                  the whole job
         python report.py --with-refined   export/ holds refined/ as well as final/
         python report.py --max-tokens N   export/ without rows that are longer
         python report.py --check          verify all that lies here, write nothing; exit 0 or 1
         python report.py --limit N        a trial: report/ over the first N turns; buckets and
                                           export/ stay as they are

Reads:   prompt/ commit/ answer_*/ score/
Writes:  report/report.md    the verdict, what to do next, what to look at, the numbers behind it
         report/turns.html   the page to read every turn on, and to label some
         report/turns.csv    every turn
         report/hugePR.md    what was left out, and why
         final/ refined/ defeat/   copies of answers plus score, metrics, reason; a parsed turn
                                   lies in exactly one
         export/             sft-, dpo- and chat-*.jsonl, and a dataset card that says how to
                             train on them

What it writes follows from what it reads and from nothing else: an unchanged run rewrites no file.
No network, no key.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path

from common import files, turns
from common.cli import Progress, Tally, parser, run, whole_number
from common.config import Config, load_config
from common.files import BadFile, UserError, natural_key
from common.report.card import CARD, card_flags, dataset_card
from common.report.check import show_check
from common.report.exports import Export, export_training
from common.report.figures import NEXT_STEP, Facts, export_text
from common.report.labels import compare_labels, read_labels
from common.report.left_out import huge_pr_page, read_left_out
from common.report.outputs import Outputs
from common.report.report_page import report_page
from common.report.rows import Row, read_row, turns_csv
from common.report.turns_page import turns_data, turns_page
from common.turns import BUCKETS, Status
from common.turns import DEFEAT_MIN as _DEFEAT_MIN
from common.turns import FINAL_MIN as _FINAL_MIN


def main() -> int:
    options = parser(__doc__)
    add = options.add_argument
    add("--with-refined", action="store_true", help="export refined/ as well as final/")
    add("--max-tokens", type=whole_number, metavar="N", help="export no row longer than that")
    add("--check", action="store_true", help="verify all that lies here, write nothing")
    flags = options.parse_args()
    if flags.check and flags.limit:
        raise UserError("--check looks at everything: leave out --limit.")
    tally = Tally("report.py")
    outputs = Outputs(check=flags.check)
    config = load_config()
    stems = find_stems(flags.limit, need_scores=not flags.check)
    written = ["report"] if flags.limit else ["report", *BUCKETS]
    locks = files.lock_folders([Path(folder) for folder in written], "report")
    with nullcontext() if flags.check else locks:
        facts = read_run(stems, config, flags.limit, tally)
        rows = facts.rows
        if not flags.limit:
            export_final(rows, outputs)
            export_refined(rows, outputs)
            export_defeat(rows, outputs)
            remove_misplaced(rows, outputs)
            # --check asks for what the card there says that it was made with.
            with_refined, max_tokens = card_flags() if flags.check else (False, None)
            with_refined = with_refined or flags.with_refined
            kept_from = _DEFEAT_MIN if with_refined else _FINAL_MIN
            facts.export = Export(with_refined, kept_from, flags.max_tokens or max_tokens)
            export_training(rows, facts.export, outputs)
            outputs.put(CARD, dataset_card(facts))  # last, for it speaks of the others
        max_record_chars = config.generate.max_record_chars
        outputs.put("report/turns.csv", turns_csv(rows, facts.judges))
        outputs.put("report/hugePR.md", huge_pr_page(facts.left_out, max_record_chars))
        outputs.put("report/report.md", report_page(facts))
        outputs.put("report/turns.html", turns_page(turns_data(facts)))
        if flags.check:
            has_run = any(Path(folder).is_dir() for folder in ("report", "export", *BUCKETS))
            return show_check(facts, outputs.stale if has_run else [], tally)
        tally.write_failed("report")
    return show_tally(facts, outputs, tally)


# ------------------------------------------------------------------------------------------ turns


def find_stems(limit: int | None, need_scores: bool) -> list[str]:
    """Return every answered or scored turn; the first `limit` of the scored ones."""
    scored = [path.stem for path in files.turn_files("score")]
    answered = list(turns.answer_files())
    if need_scores and not scored:
        raise UserError("score/ holds no judged turn: run python validate.py, then this again.")
    if not answered:
        raise UserError("answer_*/ hold no turn: put them back, or run python king.py.")
    if limit:
        return scored[:limit]
    return sorted({*answered, *scored}, key=natural_key)


def read_run(stems: list[str], config: Config, limit: int | None, tally: Tally) -> Facts:
    """Read all that this stage speaks of; torn files are failures of the tally."""
    folders = turns.answer_folders()
    progress = Progress(len(stems), "reading")
    rows = []
    for stem in stems:
        rows.append(read_row(stem, _find_answer(stem, folders), tally))
        progress.update(failed=len(tally.failed))
    progress.close()
    duel = {}
    plan = {}
    try:
        duel = turns.read_duel() or {}
    except BadFile as bad:
        tally.fail("_duel", "torn or foreign file, mended by python validate.py", str(bad))
    try:
        plan = turns.read_plan("prompt") or {}
    except BadFile as bad:
        tally.fail("_plan", "torn or foreign file, mended by python prompt.py", str(bad))
    left_out = read_left_out(plan, config, tally)
    for row in rows:
        row.license = left_out.licences.get(row.instance_id, "")
        # An answer may not name its repo, though its prompt does.
        row.repo = row.repo or left_out.repos.get(row.instance_id) or row.instance_id
    labels = read_labels()
    agreement = compare_labels(labels, rows) if labels else None
    return Facts(rows, left_out, duel, plan, config, limit, agreement)


def _find_answer(stem: str, folders: list[Path] | None = None) -> Path | None:
    """Return the answer file of a turn; of several folders see `first_filled`."""
    folders = turns.answer_folders() if folders is None else folders
    paths = [folder / f"{stem}.json" for folder in folders]
    paths = [path for path in paths if path.is_file()]
    return turns.first_filled(paths) if paths else None


# ---------------------------------------------------------------------------------------- buckets


def fill_bucket(name: str, rows: list[Row], outputs: Outputs) -> None:
    """Copy the bucket's answers into its folder, with score, metrics and reason."""
    for row in rows:
        if row.bucket == name:
            reason = row.judged["reason"] or ""
            if row.held_back:
                reason = f"Held back from final/: {row.unfit}. {reason}"
            judged = {"score": row.score, "metrics": row.metrics, "reason": reason}
            copy = files.json_bytes({**turns.read_answer(row.path), **judged})
            outputs.put(Path(name, f"{row.stem}.json"), copy, is_ours=is_bucket_copy)


export_final = partial(fill_bucket, "final")  # what the panel reliably prefers
export_refined = partial(fill_bucket, "refined")  # preferred less clearly, or held back from final/
export_defeat = partial(fill_bucket, "defeat")  # the rest of what was judged


def remove_misplaced(rows: list[Row], outputs: Outputs) -> None:
    """Take out of each bucket what belongs into another one, or is no judged turn any more.

    This comes last: a kill leaves a turn in two, for the next run to fix, and never in none. A copy
    whose answer is gone or torn (no digests of it) stays: it may be the last.
    """
    for row in rows:
        for name in BUCKETS:
            path = Path(name, f"{row.stem}.json")
            if name != row.bucket and row.sha and path.exists() and is_bucket_copy(path):
                outputs.remove(path, "lies in the wrong bucket")


def is_bucket_copy(path: Path) -> bool:
    """Tell whether a file is a copy that this stage wrote, by what it holds."""
    try:
        files.read_json(path, (*turns.ANSWER_KEYS, "score", "metrics", "reason"))
    except (BadFile, OSError):
        return False
    return True


# ------------------------------------------------------------------------------------------ tally


def show_tally(facts: Facts, outputs: Outputs, tally: Tally) -> int:
    """Print what was done and what to run next; return the exit code."""
    tally.done = len(facts.parsed if facts.limit else facts.scored)
    for status, step in NEXT_STEP.items():
        if status != Status.BROKEN:  # those have failed
            tally.skipped[f"{status}: {step}"] = facts.statuses[status]
    lines = [f"verdict {facts.verdict}"]
    if facts.stale:
        lines.append(f"stale   score/_duel.json: {facts.stale}")
    if facts.export:
        filled = [f"{name}/ {facts.buckets[name]:,}" for name in BUCKETS]
        lines.append("buckets " + ", ".join(filled))
        lines.append("export  " + export_text(facts.export).replace("\n", "\n          "))
    for path in outputs.quarantined:
        lines.append(f"aside   {path} was in the way and is not ours")
    lines.append("report  report/report.md, report/turns.csv, report/hugePR.md")
    lines.append("read    report/turns.html: every turn, side by side; opens in any browser")
    return tally.show(*lines, next_command=facts.command)


if __name__ == "__main__":
    run(main)
