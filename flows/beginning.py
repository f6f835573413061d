"""Handle Ctrl-C before a command has begun its work, mostly during imports. Imports next to nothing."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def end_on_ctrl_c() -> None:
    """End at once on Ctrl-C, until a command says otherwise; where it is ignored, as under nohup, it stays so."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


def end(number: int, frame: FrameType | None) -> None:
    """End without unwinding: an interrupted import may say anything."""
    if sys.stderr is not None:
        print("interrupted before anything was begun", file=sys.stderr, flush=True)
    os._exit(128 + number)
