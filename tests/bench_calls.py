"""How close the calling stages come to a plain floor, in one run on one server.

    python -m tests.bench_calls [--turns 2000] [--concurrency 64] [--latency-ms 200] [--repeat 3]

The floor is the least that does the same honest work: aiohttp, one JSON body a call, a durable write a reply (temporary
file, fsync, rename), no retries, no sorting of faults. Every figure is a whole process: wall and CPU seconds, import
included. Ratios are taken run by run, side by side, and the median is printed.
"""
from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests")]

from helpers import clean_environment, make_prompt, make_record, write_settings  # noqa: E402

PROMPT_CHARS = 31_000  # as measured on the real dataset


def main(argv: list[str] | None = None) -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    print(f"{options.turns} calls of {PROMPT_CHARS / 1000:.0f} KB, {options.concurrency} at once, {options.latency_ms} ms; "
          f"ideal {options.turns / options.concurrency * options.latency_ms / 1000:.2f} s")
    print(f"{'way':34}{'wall s':>8}{'x floor':>9}{'CPU ms/call':>13}{'x floor':>9}{'peak MB':>9}")
    for stream in (False, True):
        compare(options, stream)


def compare(options, stream: bool) -> None:
    """Floor and king.py in turn, `repeat` times, against one server."""
    folder = Path(tempfile.mkdtemp(prefix="bench_calls_"))
    in_a_child(make_big_sample, folder, options.turns)
    write_settings(folder, generate={"stream": stream})
    server = subprocess.Popen([sys.executable, "-m", "common.demo.server", "--port", "0", "--events", "150",
                               "--latency-ms", str(options.latency_ms), "--reply-chars", "800"],
                              cwd=REPO, stdout=subprocess.PIPE, text=True)
    url = json.loads(server.stdout.readline())["url"]
    environment = clean_environment() | {"CHUTES_BASE_URL": url, "CHUTES_API_KEY": "bench"}
    common = ["--concurrency", str(options.concurrency)]
    ways = {"floor: aiohttp, durable writes": [sys.executable, str(Path(__file__)), "--floor", url, *common,
                                               *(["--stream"] if stream else [])],
            "king.py": [sys.executable, str(REPO / "king.py"), *common]}
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
    floors = figures["floor: aiohttp, durable writes"]
    for way, runs in figures.items():
        wall, cpu = (statistics.median(run[index] for run in runs) for index in (0, 1))
        wall_ratio, cpu_ratio = (statistics.median(run[index] / least[index] for run, least in zip(runs, floors))
                                 for index in (0, 1))
        print(f"{way + ', ' + kind:34.34}{wall:8.2f}{wall_ratio:9.2f}{cpu / options.turns * 1000:13.2f}{cpu_ratio:9.2f}"
              f"{max(run[2] for run in runs):9.0f}", flush=True)


def timed(command: list[str], folder: Path, environment: dict) -> tuple[float, float, float]:
    """(wall s, CPU s, peak MB) of a whole process."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def in_a_child(make, *arguments) -> None:
    """Make files in a process of its own: what this one holds would count as the peak of its children."""
    child = multiprocessing.get_context("spawn").Process(target=make, args=arguments)
    child.start()
    child.join()
    assert child.exitcode == 0


def make_big_sample(folder: Path, count: int) -> None:
    """`count` prompts of 31 KB in chats of 15 messages, and their PR records."""
    for name in ("prompt", "commit"):
        Path(folder, name).mkdir()
    prompts = []
    for number in range(count):
        prompt, record = make_prompt(number), make_record(number)
        words = f"line of output {number}: src/module_{number}.py — nothing to see\n" * 36
        for turn in range(6):
            prompt["messages"] += [{"role": "assistant", "content": f"THOUGHT: step {turn}\n\n```bash\nls {turn}\n```"},
                                   {"role": "user", "content": words * 2}]
        prompts.append(prompt)
        Path(folder, "commit", f"{record['instance_id']}.json").write_text(json.dumps(record))
    for first in range(0, count, 200):
        Path(folder, f"prompt/prompts_{count}_{first // 200 + 1}.json").write_text(json.dumps(prompts[first:first + 200]))


async def floor(url: str, concurrency: int, stream: bool) -> None:
    """The floor, as a process of its own."""
    import aiohttp
    Path("answer_0").mkdir()

    def save(path: Path, answer: dict) -> None:
        with open(f"{path}.tmp", "wb") as file:
            file.write(json.dumps(answer, ensure_ascii=False).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{path}.tmp", path)

    def text_of(body: bytes) -> str:
        if not stream:
            return json.loads(body)["choices"][0]["message"]["content"]
        events = (json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {"))
        return "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])

    async def worker(session, todo) -> None:
        for stem, prompt in todo:
            body = {"model": "m", "messages": prompt["messages"], "temperature": 1.0, "max_tokens": 16000}
            if stream:
                body |= {"stream": True, "stream_options": {"include_usage": True}}
            async with session.post(f"{url}/chat/completions", json=body) as response:
                text = text_of(await response.read())
            await asyncio.to_thread(save, Path(f"answer_0/{stem}.json"), {**prompt, "king": text})

    todo = ((f"{path.stem}_{order}", prompt) for path in sorted(Path("prompt").glob("*.json"))
            for order, prompt in enumerate(json.loads(path.read_bytes()), 1))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(worker(session, todo) for _ in range(concurrency)))


if __name__ == "__main__":
    main()
