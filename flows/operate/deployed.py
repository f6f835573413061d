"""Start of a run that a worker launches without the command line."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType

from flows.operate.run_log import let_rooms_speak
from tasks.workers.loopback import bypass_proxies_on_loopback
from tasks.workers.tether import signal_at_parents_end


def begin_run() -> None:
    """Prepare a run: Prefect gets the rooms' log lines, loopback is reachable, and it ends with its worker."""
    let_rooms_speak()
    bypass_proxies_on_loopback()
    if os.environ.get("PREFECT__FLOW_RUN_ID") and threading.current_thread() is threading.main_thread():
        end_with_worker()


def end_with_worker() -> None:
    """End this process in order when its worker is killed (on Linux).

    Without its worker a run cannot be cancelled any more, and would hold its GPU while the next one begins.
    """
    signal.signal(signal.SIGUSR1, _end)
    signal_at_parents_end(signal.SIGUSR1)


def _end(number: int, frame: FrameType | None) -> None:
    """End by SIGTERM, a crash to Prefect's engine: training writes its checkpoint, and the run counts as crashed."""
    # The worker read what is printed. Nobody does now, so printing would fail, and with it what the engine does next.
    with Path(os.devnull).open("wb") as nothing:
        for descriptor in (1, 2):
            os.dup2(nothing.fileno(), descriptor)
    os.kill(os.getpid(), signal.SIGTERM)
