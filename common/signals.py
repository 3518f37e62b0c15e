"""Signals that end a stage: Ctrl-C, SIGTERM, SIGHUP.

The imports of a stage take up to a second. So that a signal in that second ends in exit code 130
without a traceback, each script begins, before its other imports, with

    if __name__ == "__main__":
        from common.signals import exit_on_signals

        exit_on_signals()

It stands there as a call, not as work at import, so that importing a script or `common` changes
nothing. `common.cli.run` then turns the signals into KeyboardInterrupt for `main`.
"""

import os
import signal

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def exit_on_signals() -> None:
    """Leave at once with 130 on a signal: nothing has been begun yet."""

    def leave(*_) -> None:
        os.write(2, b"interrupted\n")
        os._exit(130)

    _handle(leave)


def interrupt_on_signals() -> None:
    """Raise KeyboardInterrupt on a signal."""
    _handle(signal.default_int_handler)


def _handle(handler) -> None:
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup: SIGHUP is to be ignored
            signal.signal(number, handler)
