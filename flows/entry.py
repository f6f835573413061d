"""The console script `unicoder-vl`. Worker processes import this file once more, so it imports nothing by itself."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from flows.__main__ import main as run

        run()
    except KeyboardInterrupt:  # During the second of imports; later a command says what its end means.
        print("interrupted before anything was begun", file=sys.stderr)
        raise SystemExit(130) from None
