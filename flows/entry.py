"""The console script `unicoder-vl`, and `python -m flows`.

Worker processes import this file once more, so it imports next to nothing by itself.
"""

from __future__ import annotations

import os
import signal
import sys

from flows.beginning import end_on_ctrl_c


def main() -> None:
    """Run the command line. During imports Ctrl-C ends it with one line; later a command decides."""
    _open_descriptors()
    end_on_ctrl_c()
    from flows.__main__ import main as run

    try:
        run()
    except KeyboardInterrupt:  # A command handles its own interrupts; this is outside of one.
        print("interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def _open_descriptors() -> None:
    """Connect closed stdin, stdout and stderr to nowhere: else a socket or a file would take their place."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # Takes the lowest free one: this.
