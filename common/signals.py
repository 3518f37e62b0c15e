"""Signals that end a stage: Ctrl-C, SIGTERM, SIGHUP.

The imports of a stage take up to a second. Each script calls `exit_on_signals` before them, so that
a signal in that second ends it without a traceback; this file therefore imports next to nothing.
`common.cli.run` then lets the signals raise KeyboardInterrupt in `main`.
"""

import os
import signal

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def exit_on_signals() -> None:
    """Leave at once with 130 on a signal: nothing has been begun yet."""

    def leave(*_):
        os.write(2, b"interrupted\n")
        os._exit(130)

    handle_signals(leave)


def handle_signals(handler) -> None:
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup: SIGHUP is to be ignored
            signal.signal(number, handler)
