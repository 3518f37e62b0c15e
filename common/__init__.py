"""What the five stages share: files (io), command line (stage), settings (config), model calls (llm over wire, money),
PR records (records), parquet by byte range (hub), reading a reply (reply), the leak audit (leaks, disclosure), and the
demo with its local server (demo/)."""
import os
import sys


def _leave_quietly(kind, error, trace) -> None:
    """Ctrl-C while the imports of a stage still run, which takes a second: the exit code, and no traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        os._exit(130)
    sys.__excepthook__(kind, error, trace)


sys.excepthook = _leave_quietly
