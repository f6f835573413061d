"""The console script `unicoder-vl`, and `python -m flows`.

Worker processes import this file once more, so it imports next to nothing by itself.
"""

from __future__ import annotations

import os
import signal
import sys

from flows.beginning import end_on_ctrl_c


def main() -> None:
    """Run the command line. Ctrl-C in the seconds of imports is one line: later a command says what its end means."""
    _open_descriptors()
    end_on_ctrl_c()
    from flows.__main__ import main as run

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
