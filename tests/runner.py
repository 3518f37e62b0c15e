"""Run the real stages as a user runs them, against a local server.

    result = stage("king.py", "--limit", "3", cwd=tmp_path, server=server)
    process = start("king.py", cwd=tmp_path, server=server)

A stage is forked by zygote.py, which has imported the heavy packages already; its pid, signals,
exit code and output are those of any process. `fresh=True` starts a new interpreter instead.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
KEY = "cpk_test-secret-0123456789"

# Short patience for servers that misbehave on order; everything else stays as users have it.
QUICK = {
    "stall_s": 1.0,
    "timeout_s": 6.0,
    "retry_budget_s": 60.0,
    "max_tokens": 2000,
    "max_tokens_cap": 32000,
}

_USERS_OWN = ("CHUTES", "OPENAI", "HF_", "HUGGINGFACE", "DUEL")


def clean_environment(server=None, **extra: str) -> dict[str, str]:
    """Return a stage's environment: nothing of the user's own, `server` as the provider."""
    values = {}
    for name, value in os.environ.items():
        if not name.startswith(_USERS_OWN):
            values[name] = value
    if server is not None:
        values["CHUTES_BASE_URL"] = server.url
        values["CHUTES_API_KEY"] = KEY
    return {**values, **extra}


def start(script: str, *flags: str, cwd: Path, server=None, fresh=False, **extra: str):
    """Start a stage; returns what subprocess.Popen would. `extra` goes into the environment."""
    argv = [str(REPO / script), *flags]
    above = Path(cwd).resolve().parent / ".env"
    if not above.exists() and not Path(cwd, ".env").exists():
        above.touch()  # so that the user's own, beside the scripts, is not found
    environment = clean_environment(server, **extra)
    # An interpreter reads these when it starts.
    fresh = fresh or any(name.startswith(("PYTHON", "LANG", "LC_")) for name in extra)
    if not fresh:
        return Forked(argv, cwd, environment)
    return subprocess.Popen(
        [sys.executable, *argv],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def stage(script: str, *flags: str, cwd: Path, server=None, timeout_s: float = 90, **extra):
    """Run a stage to its end; .returncode, .stdout, .stderr as subprocess.run gives them."""
    process = start(script, *flags, cwd=cwd, server=server, **extra)
    try:
        out, err = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextmanager
def paused(process):
    """Keep a stage from going on meanwhile: it holds its locks however slow this machine is."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def assert_no_key(cwd: Path, *printed: str) -> None:
    """Assert that the key stands in nothing that was printed and in no file."""
    for text in printed:
        assert KEY not in text
    for path in Path(cwd).rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


class Forked:
    """A stage forked by the zygote; the part of subprocess.Popen that the tests use."""

    def __init__(self, argv: list[str], cwd: Path, environment: dict[str, str]):
        self.args = argv
        self.returncode: int | None = None
        out, child_out = os.pipe()
        err, child_err = os.pipe()
        report, child_report = os.pipe()
        self.stdout = os.fdopen(out, encoding="utf-8", errors="replace")
        self.stderr = os.fdopen(err, encoding="utf-8", errors="replace")
        self._report = os.fdopen(report, encoding="ascii")
        self._readers: list[_Reader] = []
        null = os.open(os.devnull, os.O_RDONLY)
        request = {"argv": argv, "cwd": str(cwd), "environment": environment}
        streams = [null, child_out, child_err, child_report]
        with _zygote.lock:
            _zygote.send(json.dumps(request).encode() + b"\n", streams)
            for number in streams:
                os.close(number)
            self.pid = int(self._report.readline())

    def poll(self) -> int | None:
        """Return the exit code, None while the stage runs."""
        try:
            return self.wait(timeout=0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code when the stage has ended. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._report.readline())
            self._report.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read both streams to their end and wait. Raises subprocess.TimeoutExpired."""
        if not self._readers:
            self._readers = [_Reader(self.stdout), _Reader(self.stderr)]
        self.wait(timeout)
        for reader in self._readers:
            reader.join()
        return self._readers[0].text, self._readers[1].text

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Reader(threading.Thread):
    """Reads a stream to its end, so that its writer never waits."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self.stream = stream
        self.text = ""
        self.start()

    def run(self) -> None:
        with self.stream:
            self.text = self.stream.read()


class _Zygote:
    """The one zygote of this session, started when the first stage is."""

    def __init__(self):
        self.lock = threading.Lock()  # one request at a time, until its pid is told
        self._socket: socket.socket | None = None

    def send(self, request: bytes, streams: list[int]) -> None:
        if self._socket is None:
            self._socket = self._start()
        sent = socket.send_fds(self._socket, [request], streams)
        self._socket.sendall(request[sent:])

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))],
            env=clean_environment(),
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C ends the tests, and their end ends the zygote
        )
        theirs.close()
        atexit.register(process.wait)
        atexit.register(ours.close)
        return ours


_zygote = _Zygote()


# -------------------------------------------------------------------------------- batches


def batch(script: str, cwd: Path, server, *flags: str, code: int = 0, **environment: str):
    """Run a stage with --batch and check how it ends."""
    result = stage(script, "--batch", *flags, cwd=cwd, server=server, **environment)
    assert "Traceback" not in result.stderr, result.stderr
    assert result.returncode == code, (result.stdout, result.stderr)
    return result


def until_done(script: str, cwd: Path, server, *flags: str) -> int:
    """Run the same line until nothing waits; return how often it took."""
    for runs in range(1, 10):
        if "waiting for a batch" not in batch(script, cwd, server, *flags).stdout:
            return runs
    raise AssertionError("it never ends")


def asked(server) -> list[str]:
    """Return the custom_ids of all batches; none may have been asked twice."""
    assert max(Counter(server.desk.asked).values(), default=0) <= 1, "asked twice"
    return server.desk.asked
