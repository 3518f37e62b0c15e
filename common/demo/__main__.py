"""The whole pipeline in ./demo, without a key and without a network: python -m common.demo

Writes a small data set into ./demo/data, starts a model server on this machine that answers by
rule, and runs the five scripts there as a user would. Run again, it goes on where it was, or finds
nothing left to ask.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from common.demo.build import version, write_parquet
from common.demo.faults import Reply
from common.demo.rules import rule_reply
from common.demo.server import Server

SCRIPTS = Path(__file__).resolve().parent.parent.parent
DEMO = Path("demo")
ENV = DEMO / ".env"
CHAIN = DEMO / "chain.toml"
STAMP = DEMO / "data" / "version.txt"
REPORT = DEMO / "report" / "report.md"
TURNS = DEMO / "report" / "turns.html"
KEY = "demo-key"
STAGES = (
    ["prompt.py", "--dataset", "data/trajectories", "--prs", "data/pull_requests", "--count", "40"],
    ["king.py"],
    ["ch.py"],
    ["validate.py"],
    ["report.py"],
)
NOTICE = (
    "The replies and verdicts of this demo are made by rule, by a server on this machine.\n"
    "They show how the pipeline works, and nothing about any model."
)
OTHER_WAY = (
    'Challengers from blind replies: [generate] challenger = "chosen" in chain.toml (README.md).'
)
# What must not reach the scripts: the user's own key and provider, a proxy before the local server.
PRIVATE = (
    "CHUTES_", "OPENAI_", "HF_", "HUGGINGFACE_", "DUEL_MODE", "HTTP_PROXY", "HTTPS_PROXY",
    "ALL_PROXY",
)  # fmt: skip


def main() -> int:
    flags = argparse.ArgumentParser(
        "python -m common.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.parse_args()
    problem = prepare()
    if problem:
        print(problem, file=sys.stderr)
        return 2
    print(NOTICE, flush=True)
    with Server(answer, key=KEY, latency_s=0.02) as server:
        # The scripts read .env and chain.toml of ./demo, and so no provider of the user's.
        provider = f"CHUTES_BASE_URL={server.url}\nCHUTES_API_KEY={KEY}\n"
        ENV.write_text(provider, encoding="utf-8")
        for command in STAGES:
            print(f"\n$ python {' '.join(command)}", flush=True)
            code = run_stage(command)
            if code:
                stopped = f"{command[0]} ended with exit code {code}: the demo stops here."
                print(stopped, file=sys.stderr)
                return code
        print(f"\nThe local server answered {len(server.chats)} calls.")
    print(OTHER_WAY)
    print(NOTICE)
    print(f"Read the turns side by side, in a browser: {TURNS}")
    print(REPORT, flush=True)
    return 0


def answer(body: dict) -> Reply:
    """Return a reply by rule; thinking models send some reasoning beside it, as real ones do."""
    reasoning = None
    if "Thinking" in body["model"]:
        reasoning = "The rules decide, metric by metric."
    model = "rules on this machine, no model"  # so that the report says it too
    return Reply(rule_reply(body), reasoning=reasoning, model=model)


def prepare() -> str | None:
    """Lay out ./demo; return what is wrong with a folder of that name that is there already."""
    if DEMO.exists() and not STAMP.is_file():
        return f"{DEMO}/ was not made by the demo. Move it away, or run the demo elsewhere."
    if ENV.exists() and KEY not in ENV.read_text(encoding="utf-8"):
        return f"{ENV} is not the demo's own. Move it away: the demo writes its own there."
    if DEMO.exists() and STAMP.read_text(encoding="utf-8") != version():
        print(f"{DEMO}/ was made by another version of the demo; it is made anew.")
        shutil.rmtree(DEMO)
    if not DEMO.exists():
        STAMP.parent.mkdir(parents=True)
        STAMP.write_text("unfinished", encoding="utf-8")
        write_parquet(STAMP.parent)
        STAMP.write_text(version(), encoding="utf-8")
    CHAIN.write_text("# All settings as they are by default, whatever your own chain.toml says.\n")
    return None


def run_stage(command: list[str]) -> int:
    """Run one script in ./demo with nothing of the user's environment; return its exit code."""
    environment = {}
    for name, value in os.environ.items():
        if not name.upper().startswith(PRIVATE):
            environment[name] = value
    environment["HF_HUB_OFFLINE"] = "1"
    environment["HF_HOME"] = str(DEMO.resolve() / "data" / "hub")
    environment["NO_PROXY"] = "127.0.0.1"
    line = [sys.executable, str(SCRIPTS / command[0]), *command[1:]]
    stage = subprocess.Popen(line, cwd=DEMO, env=environment)
    while True:
        try:
            code = stage.wait()
        except KeyboardInterrupt:
            continue  # the terminal sent it to the stage too, which saves and ends with 130
        return code if code >= 0 else 128 - code  # ended by a signal: as a shell says it


if __name__ == "__main__":
    sys.exit(main())
