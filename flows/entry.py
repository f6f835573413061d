"""The console script `unicoder-vl`. Worker processes import this file once more, so it imports nothing by itself."""

from __future__ import annotations


def main() -> None:
    from flows.__main__ import main as run

    run()
