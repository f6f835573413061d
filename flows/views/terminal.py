"""Log lines on stderr and, where that is a terminal, one live line below them."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import TextIO

ROOMS = ("flows", "tasks", "model", "feature_extraction")
_ERASE_LINE = "\r\x1b[K"


class _LineFormatter(logging.Formatter):
    """Formats `12:03:04 download  message`, where download is the stage; warnings and worse are marked."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        stage = record.name.rpartition(".")[2]
        level = "" if record.levelno <= logging.INFO else f"{record.levelname}: "
        line = f"{clock} {stage:9} {level}{record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class TerminalHandler(logging.StreamHandler[TextIO]):
    """Log lines on a stream and, where that is a terminal, a live line that stays below them.

    One object writes both, so neither tears the other. Not by rich's `Live`, which takes as many lines here, hides the
    cursor, for ever where the process is killed, and scrolls when it ends.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(_LineFormatter())
        self._live = ""

    @property
    def rewrites(self) -> bool:
        """Whether a line can be rewritten in place here."""
        return not self.stream.closed and self.stream.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, text: str) -> None:
        """Replace the live line by `text`, cut to the terminal's width; "" removes the line."""
        with self._locked():
            self._live = text[: self._columns() - 1]
            self.stream.write(_ERASE_LINE + self._live)
            self.flush()

    def emit(self, record: logging.LogRecord) -> None:
        if not self._live:
            super().emit(record)
            return
        self.stream.write(_ERASE_LINE)
        super().emit(record)
        self.stream.write(self._live)
        self.flush()

    def _locked(self) -> threading.RLock:
        assert self.lock is not None
        return self.lock

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or 80
        except OSError:
            return 80


def log_to_stderr() -> None:
    """Send the four rooms' loggers to stderr, in a process that Prefect does not log for. May be called again."""
    # A job may be started with its stderr closed: then there is none.
    handler = logging.NullHandler() if sys.stderr is None else TerminalHandler(sys.stderr)
    for room in ROOMS:
        logger = logging.getLogger(room)
        logger.handlers.clear()
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def terminal_of(logger: logging.Logger) -> TerminalHandler | None:
    """The handler that writes a logger's lines to a terminal, if there is one."""
    current: logging.Logger | None = logger
    while current is not None:
        for handler in current.handlers:
            if isinstance(handler, TerminalHandler) and handler.rewrites:
                return handler
        current = current.parent if current.propagate else None
    return None
