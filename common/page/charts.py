"""Draw the pictures of turns.html: SVG as text, coloured by turns.css, figures also in words."""

from __future__ import annotations

from html import escape

from common.turns import BUCKETS, ORDERS

BIN = 10  # score points
ROW = 18  # pixels
LEFT = 44  # pixels for a bar's label


def score_chart(turns: list[dict]) -> str:
    """Return a histogram of the scores, each bar divided by bucket."""
    counts = [dict.fromkeys(BUCKETS, 0) for _ in range(0, 100, BIN)]
    for turn in turns:
        if turn["bucket"] in BUCKETS:
            place = min(int(turn["score"] // BIN), len(counts) - 1)
            counts[place][turn["bucket"]] += 1
    bars = [(f"{place * BIN}–{place * BIN + BIN}", row) for place, row in enumerate(counts)]
    return bar_chart("Turns by score and bucket", bars[::-1])


def verdict_chart(judges: list[str], turns: list[dict]) -> str:
    """Return the challenger's wins, draws and losses in the first look, by judge and order."""
    counts = {}
    for judge in judges:
        for order in ORDERS:
            counts[judge, order] = {"win": 0, "level": 0, "loss": 0}
    for turn in turns:
        for verdict in turn["texts"]["verdicts"]:
            row = counts.get((verdict["judge"], verdict["order"]))
            if row is None or not verdict["calls"] or verdict["look"] > 1:
                continue
            challenger = 1 + ORDERS.index(verdict["order"])  # its place in this order
            for call in verdict["calls"].values():
                row[{0: "level", challenger: "win"}.get(call, "loss")] += 1
    bars = []
    for judge in judges:
        bars.append((judge, {}))
        bars.append(("1st", counts[judge, ORDERS[0]]))
        bars.append(("2nd", counts[judge, ORDERS[1]]))
    title = "Win, level and loss of the challenger by judge, shown first (1st) and second (2nd)"
    return bar_chart(title, bars)


def bar_chart(title: str, bars: list[tuple[str, dict[str, int]]]) -> str:
    """Return bars under one another, each divided by name; one without counts is a heading."""
    longest = max((sum(counts.values()) for _, counts in bars), default=0) or 1
    parts = []
    for place, (label, counts) in enumerate(bars):
        y = place * ROW
        parts.append(f'<text x="0" y="{y + 13}">{escape(label)}</text>')
        x = LEFT
        for name, count in counts.items():
            width = 300 * count / longest
            words = f"{name} {count}"
            box = f'x="{x:.1f}" y="{y + 1}" width="{width:.1f}" height="{ROW - 2}"'
            parts.append(f'<rect class="{name}" {box}><title>{words}</title></rect>')
            if width > 8 * len(words):
                parts.append(f'<text x="{x + 4:.1f}" y="{y + 13}">{words}</text>')
            x += width
    box = f'role="img" aria-label="{escape(title)}" viewBox="0 0 352 {len(bars) * ROW}"'
    picture = f"<svg {box}>{''.join(parts)}</svg>"
    return f"<figure><figcaption>{escape(title)}</figcaption>{picture}</figure>"
