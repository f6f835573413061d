"""Ctrl-C, SIGTERM and a closed terminal: the first ends a command in order, a second one at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from flows import beginning
from tasks.workers.launch import kill_children

GOES_ON = "interrupted; the same command goes on from here"

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME_SECONDS = 1.0
"""Signals so close together are one wish: `timeout` and batch systems send theirs to a command and to its group."""


class Interrupted(KeyboardInterrupt):
    """A signal asks to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def ends_in_order() -> Iterator[None]:
    """Let each of these signals end the work as Ctrl-C does.

    What is done is kept, and temporary files are removed.

    A second Ctrl-C or SIGTERM does not wait for that: it kills what was started, and this process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Signals come to the main thread alone.
        return
    asked: list[float] = []

    def end(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGHUP:
            _leave_terminal()
        if not asked:
            asked.append(now)
            raise Interrupted(number)
        if number != signal.SIGHUP and now > asked[0] + _SAME_SECONDS:
            _end_at_once(number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number, handler in before.items():
            # Else, as under nohup, somebody has decided already.
            if handler in (signal.SIG_DFL, signal.default_int_handler, beginning.end):
                signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_terminal() -> None:
    """Redirect output to nowhere: on a closed terminal it would fail, and with it what remains to be done."""
    with Path(os.devnull).open("wb") as nothing:
        for descriptor in (1, 2):
            with suppress(OSError):
                if os.isatty(descriptor):
                    os.dup2(nothing.fileno(), descriptor)


def _end_at_once(number: int) -> None:
    """Kill all child processes and end; what is tethered to this one dies with it (`tasks.workers.tether`)."""
    kill_children()
    for worker in multiprocessing.active_children():
        worker.kill()
    with suppress(OSError, AttributeError):
        os.write(sys.stderr.fileno(), f"{GOES_ON}\n".encode())
    os._exit(128 + number)
