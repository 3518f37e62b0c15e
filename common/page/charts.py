"""Draw the pictures of turns.html: SVG as text, coloured by turns.css, figures also in words."""

from __future__ import annotations

from html import escape

from common.turns import BUCKETS, ORDERS

BIN = 10  # score points


def score_chart(turns: list[dict]) -> str:
    """Return a histogram of the scores, each bar divided by bucket."""
    counts = {}
    for turn in turns:
        if turn["bucket"] in BUCKETS:
            place = min(int(turn["score"] // BIN), 100 // BIN - 1)
            counts[place, turn["bucket"]] = counts.get((place, turn["bucket"]), 0) + 1
    columns = range(100 // BIN)
    highest = max((sum(counts.get((c, b), 0) for b in BUCKETS) for c in columns), default=0) or 1
    parts = []
    for column in columns:
        x = 6 + column * 34
        y = 104.0
        for name in BUCKETS[::-1]:
            height = 84 * counts.get((column, name), 0) / highest
            y -= height
            if height:
                box = f'x="{x}" y="{y:.1f}" width="30" height="{height:.1f}"'
                parts.append(f'<rect class="{name}" {box}/>')
            if height > 13:
                parts.append(f'<text x="{x + 15}" y="{y + 11:.1f}" class="middle">{name[0]}</text>')
        total = sum(counts.get((column, name), 0) for name in BUCKETS)
        if total:
            parts.append(f'<text x="{x + 15}" y="{y - 4:.1f}" class="middle">{total}</text>')
        parts.append(f'<text x="{x}" y="118">{column * BIN}</text>')
    legend = []
    for place, name in enumerate(BUCKETS):
        total = sum(counts.get((column, name), 0) for column in columns)
        x = 6 + place * 110
        legend.append(f'<rect class="{name}" x="{x}" y="127" width="12" height="12"/>')
        legend.append(f'<text x="{x + 18}" y="137">{name} {total}</text>')
    return svg("Turns by score and bucket", 352, 142, [*parts, *legend])


def verdict_chart(judges: list[str], counts: dict[tuple[str, str], dict[str, int]]) -> str:
    """Return win, level and loss of the challenger by judge and order: counts by (judge, order)."""
    parts = []
    y = 14
    for name in judges:
        parts.append(f'<text x="6" y="{y}">{escape(short(name))}</text>')
        y += 6
        for order, place in zip(ORDERS, ("1st", "2nd"), strict=True):
            parts += verdict_bar(y, place, counts.get((name, order), {}))
            y += 19
        y += 14
    words = "Win, level and loss of the challenger by judge, shown first (1st) and second (2nd)"
    return svg(words, 352, max(y - 8, 20), parts)


def verdict_bar(y: int, place: str, counts: dict[str, int]) -> list[str]:
    """Return one bar: three parts of 300 units together, each with its share in words."""
    parts = [f'<text x="6" y="{y + 12}">{place}</text>']
    total = sum(counts.values())
    x = 38.0
    for name in ("win", "level", "loss"):
        share = counts.get(name, 0) / total if total else 0
        width = 308 * share
        if width:
            box = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="16"'
            parts.append(f'<rect class="{name}" {box}/>')
        label = f"{name} {100 * share:.0f} %" if width > 70 else f"{100 * share:.0f} %"
        if width > 30:
            parts.append(f'<text x="{x + 4:.1f}" y="{y + 12}">{label}</text>')
        x += width
    return parts


def short(name: str, most: int = 52) -> str:
    """Return a judge's name, cut to fit its line."""
    return name if len(name) <= most else name[: most - 1] + "…"


def svg(words: str, width: int, height: int, parts: list[str]) -> str:
    """Return one picture with its title."""
    box = f'role="img" aria-label="{escape(words)}" viewBox="0 0 {width} {height}"'
    picture = f"<svg {box}>{''.join(parts)}</svg>"
    return f"<figure><figcaption>{escape(words)}</figcaption>{picture}</figure>"
