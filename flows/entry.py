"""The console script `unicoder-vl`, and `python -m flows`.

Worker processes import this file once more, so it imports nothing by itself.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command line. Ctrl-C in the seconds of imports is one line: later a command says what its end means."""
    _open_descriptors()
    handled = signal.getsignal(signal.SIGINT) == signal.default_int_handler  # Else, as under nohup, it is ignored.
    if handled:
        signal.signal(signal.SIGINT, _end)
    from flows.__main__ import main as run

    if handled:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
    except KeyboardInterrupt:  # Outside of what a command itself handles.
        print("interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def _open_descriptors() -> None:
    """Lead stdin, stdout and stderr nowhere where they were closed: else a socket or a file would be opened as one."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # The lowest that is free: this one.


def _end(number: int, frame: FrameType | None) -> None:
    """End without unwinding: an import that is interrupted may say anything, and nothing was begun."""
    if sys.stderr is not None:
        print("interrupted before anything was begun", file=sys.stderr, flush=True)
    os._exit(128 + number)
