"""How close the calling stages come to a plain floor, in one run on one server.

    python -m tests.bench_calls [--turns 2000] [--concurrency 64] [--latency-ms 200] [--repeat 3]

The floor is the least that does the same honest work: aiohttp, one JSON body a call, a durable
write a reply (temporary file, fsync, rename), no retries, no sorting of faults. Every figure is of
a whole process: wall and CPU seconds, import included. Ratios are taken run by run, side by side,
and the median is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.makers import make_prompt, make_record, put, write_prompts, write_settings
from tests.measure import in_a_child, timed
from tests.runner import REPO, clean_environment

PROMPT_CHARS = 31_000  # as measured on the real dataset
FLOOR = "floor: aiohttp, durable writes"


def main(argv: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--turns", type=int, default=2000)
    flags.add_argument("--concurrency", type=int, default=64)
    flags.add_argument("--latency-ms", type=int, default=200)
    flags.add_argument("--repeat", type=int, default=3)
    flags.add_argument("--floor", metavar="URL", help=argparse.SUPPRESS)
    flags.add_argument("--stream", action="store_true", help=argparse.SUPPRESS)
    options = flags.parse_args(argv)
    if options.floor:
        asyncio.run(floor(options.floor, options.concurrency, options.stream))
        return
    ideal_s = options.turns / options.concurrency * options.latency_ms / 1000
    print(
        f"{options.turns} calls of {PROMPT_CHARS / 1000:.0f} KB, {options.concurrency} at once, "
        f"{options.latency_ms} ms; ideal {ideal_s:.2f} s"
    )
    print(f"{'way':34}{'wall s':>8}{'x floor':>9}{'CPU ms/call':>13}{'x floor':>9}{'peak MB':>9}")
    for stream in (False, True):
        compare(options, stream)


def compare(options, stream: bool) -> None:
    """Run floor and king.py in turn, `repeat` times, against one server."""
    folder = Path(tempfile.mkdtemp(prefix="bench_calls_"))
    in_a_child(make_big_sample, folder, options.turns)
    write_settings(folder, generate={"stream": stream})
    server, url = start_server(options.latency_ms)
    environment = clean_environment()
    environment.update(CHUTES_BASE_URL=url, CHUTES_API_KEY="bench", PYTHONPATH=str(REPO))
    common = ["--concurrency", str(options.concurrency)]
    ways = {
        FLOOR: [sys.executable, "-m", "tests.bench_calls", "--floor", url, *common],
        "king.py": [sys.executable, str(REPO / "king.py"), *common],
    }
    if stream:
        ways[FLOOR].append("--stream")
    figures = {way: [] for way in ways}
    try:
        for _ in range(options.repeat):
            for way, command in ways.items():
                for answers in folder.glob("answer_*"):
                    shutil.rmtree(answers)
                figures[way].append(timed(command, folder, environment))
    finally:
        server.kill()
        shutil.rmtree(folder)
    kind = "150 events a reply" if stream else "one body a reply"
    for way, runs in figures.items():
        wall_s = statistics.median(run[0] for run in runs)
        cpu_s = statistics.median(run[1] for run in runs)
        pairs = list(zip(runs, figures[FLOOR]))
        wall_ratio = statistics.median(run[0] / least[0] for run, least in pairs)
        cpu_ratio = statistics.median(run[1] / least[1] for run, least in pairs)
        cpu_ms = cpu_s / options.turns * 1000
        peak_mb = max(run[2] for run in runs)
        print(
            f"{way + ', ' + kind:34.34}{wall_s:8.2f}{wall_ratio:9.2f}{cpu_ms:13.2f}"
            f"{cpu_ratio:9.2f}{peak_mb:9.0f}",
            flush=True,
        )


def start_server(latency_ms: int) -> tuple[subprocess.Popen, str]:
    """Start the local server as a process of its own; return it and its address."""
    flags = ["--events", "150", "--latency-ms", str(latency_ms), "--reply-chars", "800"]
    server = subprocess.Popen(
        [sys.executable, "-m", "common.demo.server", *flags],
        cwd=REPO,
        stdout=subprocess.PIPE,
        text=True,
    )
    return server, json.loads(server.stdout.readline())["url"]


def make_big_sample(folder: Path, count: int) -> None:
    """Write `count` prompts of 31 KB in chats of 14 messages, and their PR records."""
    prompts = [make_prompt(number, 4400, steps=6) for number in range(count)]
    write_prompts(folder, prompts)
    for number, prompt in enumerate(prompts):
        put(folder / "commit" / f"{prompt['instance_id']}.json", make_record(number))


# ------------------------------------------------------------------- the floor, as its own process


async def floor(url: str, concurrency: int, stream: bool) -> None:
    import aiohttp

    Path("answer_0").mkdir()
    todo = read_todo()

    async def work(session) -> None:
        for stem, prompt in todo:
            body = {"model": "m", "messages": prompt["messages"], "temperature": 1.0}
            body["max_tokens"] = 16000
            if stream:
                body["stream"] = True
                body["stream_options"] = {"include_usage": True}
            async with session.post(f"{url}/chat/completions", json=body) as response:
                data = await response.read()
            text = text_of_stream(data) if stream else text_of_body(data)
            await asyncio.to_thread(save, Path(f"answer_0/{stem}.json"), {**prompt, "king": text})

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session) for _ in range(concurrency)))


def read_todo() -> Iterator[tuple[str, dict]]:
    for path in sorted(Path("prompt").glob("*.json")):
        for order, prompt in enumerate(json.loads(path.read_bytes()), 1):
            yield f"{path.stem}_{order}", prompt


def text_of_body(data: bytes) -> str:
    return json.loads(data)["choices"][0]["message"]["content"]


def text_of_stream(data: bytes) -> str:
    texts = []
    for line in data.split(b"\n"):
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:])["choices"]:
                texts.append(choice["delta"].get("content") or "")
    return "".join(texts)


def save(path: Path, answer: dict) -> None:
    with open(f"{path}.tmp", "wb") as file:
        file.write(json.dumps(answer, ensure_ascii=False).encode())
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.tmp", path)


if __name__ == "__main__":
    main()
