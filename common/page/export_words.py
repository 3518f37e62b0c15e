"""What the tally, report.md and the card say of export/: files, splits, lengths."""

from __future__ import annotations

from common.exports import MIN_REPOS_TO_VALIDATE, SPLITS, Export
from common.page.markdown import count, percent, say, shown
from common.page.rows import CHARS_PER_TOKEN

MAX_LENGTHS = (1024, 2048, 4096, 8192, 16_384, 32_768)  # tokens
SMALL_SPLIT = 30  # rows


def export_words(export: Export) -> str:
    """Return the rows of each file of export/."""
    rows = []
    for name, n in export.files.items():
        rows.append(f"{name} {n:,}")
    return say(
        "export",
        rows=", ".join(rows) or "no row yet",
        duplicates=count(export.duplicates, "near-duplicate"),
        held_back=say("held_back", turns=f"{export.held_back:,}") if export.held_back else "",
        too_long=too_long_words(export),
    )


def too_long_words(export: Export) -> str:
    """Return how many rows --max-tokens left out; "" without the flag."""
    if not export.max_tokens:
        return ""
    rows = count(export.too_long, "row")
    return say("too_long", rows=rows, max_tokens=f"{export.max_tokens:,}")


def split_words(export: Export) -> str:
    """Return how large the splits are, and what is to be minded of a small or an empty one."""
    if not export.all_rows:
        return ""
    sizes = []
    notes = []
    for split in SPLITS:
        rows = export.rows[split]
        repos = {row.repo for row in rows}
        sizes.append(f"{split} {count(len(rows), 'row')} of {count(len(repos), 'repo')}")
        if not rows:
            notes.append(say("split_empty", split=split, least=MIN_REPOS_TO_VALIDATE))
        elif len(rows) < SMALL_SPLIT or len(repos) == 1:
            notes.append(say("split_small", split=split))
    if export.moved_repo:
        notes.append(say("split_moved", repo=shown(export.moved_repo)))
    return " ".join([f"Here: {', '.join(sizes)}.", *notes])


def prompt_lengths(export: Export) -> dict[str, str]:
    """Return median, 90th percentile and most of the prompts' tokens, and how many are guesses."""
    lengths = sorted(row.prompt_tokens for row in export.all_rows)
    last = len(lengths) - 1
    guesses = sum(row.tokens_from == "guess" for row in export.all_rows)
    guessed = (
        f" ({guesses:,} of {len(lengths):,} guessed at {CHARS_PER_TOKEN:g} characters a token)"
    )
    return {
        "median": f"{lengths[round(0.5 * last)]:,}",
        "ninetieth": f"{lengths[round(0.9 * last)]:,}",
        "most": f"{lengths[last]:,}",
        "guessed": guessed if guesses else "",
    }


def length_words(export: Export) -> str:
    """Return the prompts' lengths and what is lost at each max_length; "" without rows."""
    if not export.all_rows:
        return ""
    lost = [f"{length:,}: {export.lost_at(length):,}" for length in MAX_LENGTHS]
    return say(
        "lengths",
        **prompt_lengths(export),
        lost=", ".join(lost),
        rows=count(len(export.all_rows), "row"),
    )


def lost_cells(export: Export) -> list[str]:
    """Return for each of MAX_LENGTHS how many rows keep no completion."""
    cells = []
    for length in MAX_LENGTHS:
        lost = export.lost_at(length)
        cells.append(f"{lost:,} ({percent(lost, len(export.all_rows))})")
    return cells
