"""Size and times of report/turns.html in Chromium.

Run: python -m tests.bench_page [--turns 2000] [--page FILE]     FILE: a page that is there already
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.pages import BROWSERS, FLAGS, make_data, write_page

# Time one input from the key to the frame after it, as a reader feels it.
TYPE = """async (text) => {
  const box = document.getElementById("filter");
  const times = [];
  for (let end = 1; end <= text.length; end += 1) {
    const start = performance.now();
    box.value = text.slice(0, end);
    box.dispatchEvent(new Event("input", { bubbles: true }));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - start);
  }
  return times;
}"""
STEP = """async (key) => {
  const start = performance.now();
  document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - start;
}"""


def main(argv: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--turns", type=int, default=2000)
    flags.add_argument("--page", type=Path)
    given = flags.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        path = given.page
        if path is None:
            path = Path(folder, "turns.html")
            data = make_data(given.turns)
            started = time.monotonic()
            path.write_text(write_page(data), encoding="utf-8")
            print(f"written in   {time.monotonic() - started:7.2f} s")
        print(f"size         {path.stat().st_size / 1e6:7.2f} MB")
        with sync_playwright() as playwright:
            measure(playwright, path.resolve())


def measure(playwright, path: Path) -> None:
    """Print the times of a page."""
    program = next(filter(None, map(shutil.which, BROWSERS)))
    browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
    page = browser.new_page(viewport={"width": 1200, "height": 850})
    started = time.monotonic()
    page.goto(path.as_uri())
    count = page.locator("[data-turn]").count()
    print(f"list ready   {time.monotonic() - started:7.2f} s, {count:,} turns")
    page.locator("[data-reply=challenger]").wait_for()
    print(f"turn shown   {time.monotonic() - started:7.2f} s")
    for name, times in (
        ("keystroke", page.evaluate(TYPE, "argparse csv") + page.evaluate(TYPE, "refined")),
        ("key j", [page.evaluate(STEP, "j") for _ in range(30)]),
    ):
        print(f"{name:<12} {statistics.median(times):7.0f} ms, at most {max(times):.0f}")
    print(f"memory       {page.evaluate('performance.memory.usedJSHeapSize') / 1e6:7.0f} MB")
    browser.close()


if __name__ == "__main__":
    main()
