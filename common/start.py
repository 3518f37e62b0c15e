"""The first moments of a script, by the standard library alone: signals, missing packages."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the signals that end a stage


def begin() -> None:
    """Leave at once on a signal, and in a line where a package is missing; later see `cli.run`."""
    # A descriptor that was closed (`>&-`) would become that of the next file or socket.
    while (spare := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(spare)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a letter

    def leave(*_):
        os.write(2, b"interrupted\n")
        os._exit(130)

    def explain(kind, error, trace):
        if isinstance(error, ModuleNotFoundError):
            print(f"{Path(sys.argv[0]).name}: {install_words(error)}", file=sys.stderr)
            os._exit(2)
        sys.__excepthook__(kind, error, trace)

    handle_signals(leave)
    sys.excepthook = explain


def handle_signals(handler) -> None:
    """Let `handler` take the signals that end a stage, but for one that nohup ignores."""
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def install_words(missing: ModuleNotFoundError) -> str:
    """Return what to run where a package is missing."""
    listed = Path(__file__).resolve().parent.parent / "requirements.txt"
    install = f"{sys.executable} -m pip install -r {listed}"
    return f"the package {missing.name} is not installed. Run: {install}"
