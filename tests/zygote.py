"""Runs stages for the tests without importing openai, common/ and the like again for each.

A process of its own, which runner.py starts once a session. It imports the heavy packages and what
the scripts share, then forks for each request; the child takes over the request's directory,
environment, arguments and streams, and runs the real script as `__main__`. Not imported before the
fork: common/sampling, which holds what huggingface_hub read from the environment.

Reads requests from file descriptor 0, a socket: one JSON line with four file descriptors beside
it (the child's stdin, stdout and stderr, and where to write its pid and at the end its exit code).
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import warnings
from pathlib import Path

PRELOAD = (
    "aiohttp",
    "anyio",
    "argparse",
    "difflib",
    "dotenv",
    "duckdb",
    "jinja2",
    "unidiff",
    "filelock",
    "httpcore2",
    "huggingface_hub.repocard",
    "numpy",
    "openai",
    "openai.resources.chat.completions",
    "pyarrow.parquet",
    "tomllib" if sys.version_info >= (3, 11) else "tomli",
    "tqdm.contrib.concurrent",
    "unittest",
    "yaml",
)


HOUSE = Path(__file__).resolve().parent.parent
ROOMS = (".", "client", "audit", "duel", "report")


def main() -> None:
    sys.path[0] = str(HOUSE)
    names = list(PRELOAD)
    for room in ROOMS:
        for path in sorted(HOUSE.joinpath("common", room).glob("*.py")):
            names.append(".".join(path.relative_to(HOUSE).with_suffix("").parts))
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # the child then finds it missing as a fresh process would
    # The first audit compiles a hundred patterns.
    record = dict.fromkeys(("issue", "description", "patch", "test_patch", "interface"), "")
    leaks = sys.modules["common.audit.leaks"]
    leaks.find_leaks("THOUGHT: x", [{"role": "user", "content": "x"}], {**record, "files": []})
    gc.freeze()  # no child looks through these objects again, nor frees them at its end
    assert threading.active_count() == 1, "of Python's threads a fork keeps only one"
    request = serve(socket.socket(fileno=os.dup(0)))
    if request is None:
        leave(0)
    run(request)


def serve(requests: socket.socket) -> dict | None:
    """Fork for each request; return the request in the child, None when the tests are over."""
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken)
    reports: dict[int, int] = {}  # where each child's end is told, by pid
    while True:
        ready = select.select([requests, wake], [], [])[0]
        if wake in ready:
            os.read(wake, 4096)
            tell_ended(reports)
        if requests not in ready:
            continue
        line, streams, _, _ = socket.recv_fds(requests, 1 << 20, 4)
        while line and not line.endswith(b"\n"):
            line += requests.recv(1 << 20)
        if not line:
            for pid in reports:
                os.kill(pid, signal.SIGKILL)
            return None
        with warnings.catch_warnings():
            # numpy and pyarrow have threads of their own, and see to them at a fork.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            for number in (wake, woken, *reports.values()):
                os.close(number)
            return {**json.loads(line), "streams": streams}
        reports[pid] = streams.pop()
        os.write(reports[pid], b"%d\n" % pid)
        for number in streams:
            os.close(number)


def tell_ended(reports: dict[int, int]) -> None:
    """Write the exit code of each child that has ended to where its starter waits for it."""
    while reports:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        report = reports.pop(pid)
        try:
            os.write(report, b"%d\n" % os.waitstatus_to_exitcode(status))
        except BrokenPipeError:
            pass  # nobody waits any more
        os.close(report)


def run(request: dict) -> None:
    """Become the stage: what happens from here ends the process as it would a fresh one."""
    *streams, report = request["streams"]
    os.close(report)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    sys.argv[:] = request["argv"]
    if hub_settings(os.environ) != hub_settings(request["environment"]):
        for name in list(sys.modules):
            if name.partition(".")[0] == "huggingface_hub":
                del sys.modules[name]  # it is imported again, under this environment
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[0] = os.path.dirname(request["argv"][0])
    try:
        runpy.run_path(request["argv"][0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, int):
            leave(end.code)
        raise


def leave(code: int) -> None:
    """End as an interpreter does, but do not take down its modules.

    That is half of a short run, and duckdb then complains of objects that were never freed.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def hub_settings(environment) -> dict[str, str]:
    """Return what huggingface_hub reads from the environment when it is imported."""
    settings = {}
    for name, value in environment.items():
        if name.startswith(("HF_", "HUGGINGFACE", "HUGGING_FACE", "HOME", "XDG_")):
            settings[name] = value
    return settings


if __name__ == "__main__":
    main()
