"""Ctrl-C during imports: one line and an end, for nothing was begun. Imports nothing by itself that takes time."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def importing() -> Iterator[None]:
    """Let Ctrl-C end the process while the block imports; where it is ignored, as under nohup, it stays so."""
    handled = signal.getsignal(signal.SIGINT) == signal.default_int_handler
    if handled:
        signal.signal(signal.SIGINT, _end)
    yield
    if handled:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    """End without unwinding: an import that is interrupted may say anything."""
    if sys.stderr is not None:
        print("interrupted before anything was begun", file=sys.stderr, flush=True)
    os._exit(128 + number)
