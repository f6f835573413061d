"""The command line: unicoder-vl, or python -m flows.

Results go to stdout, everything said on the way to stderr. Exit codes: 0 done; 2 bad input, found before anything is
written, one sentence on stderr; 1 a stage failed.
"""

from __future__ import annotations

if __name__ == "__main__":  # Before the seconds of imports below, which Ctrl-C may meet.
    from flows.entry import main as enter

    enter()
    raise SystemExit

from flows.commands.app import app
from tasks.workers.loopback import bypass_proxies_on_loopback


def main() -> None:
    bypass_proxies_on_loopback()
    app()
