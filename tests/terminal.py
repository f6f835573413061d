"""A command in a terminal of its own, as a person has it: Ctrl-C reaches its whole group, and the terminal closes."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.processes import with_environment

REPOSITORY = Path(__file__).parents[1]
_MARK = "UNICODER_VL_TERMINAL"
# The terminal becomes that of the new session, whose foreground group is the command's.
_IN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class Terminal:
    """`python ARGUMENTS` in a new terminal."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        self._mark = f"{os.getpid()}-{self._master}-{time.monotonic_ns()}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_TERMINAL, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            cwd=REPOSITORY,
            env={**os.environ, **environment, _MARK: self._mark},
        )
        os.close(slave)
        self._said = bytearray()
        self._closed, self._closing = os.pipe()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def said(self) -> str:
        """What the terminal has shown so far."""
        return self._said.decode(errors="replace").replace("\r\n", "\n")

    def wait_until(self, happened: Callable[[], object], seconds: float = 90) -> None:
        """Return once it happened; AssertionError when the command has ended before, or after so many seconds."""
        until = time.monotonic() + seconds
        while not happened():
            assert self.process.poll() is None and time.monotonic() < until, self.said
            time.sleep(0.02)

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def close(self) -> None:
        """Close the window: the kernel sends SIGHUP, and what is written after that fails."""
        os.write(self._closing, b"x")
        self._reader.join()
        os.close(self._closing)

    def wait(self, seconds: float = 60) -> int:
        """The exit status, once the command and all that it has started have ended."""
        status = self.process.wait(seconds)
        until = time.monotonic() + 15
        while left := self.processes():
            assert time.monotonic() < until, f"left running: {left}"
            time.sleep(0.02)
        self._reader.join(
            15
        )  # With the last of them the terminal ends, and so does what reads it, once it has read all.
        return status

    def processes(self) -> list[psutil.Process]:
        """What the command has started, and itself."""
        return with_environment(**{_MARK: self._mark})

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        with suppress(OSError):
            self.close()

    def _read(self) -> None:
        with suppress(OSError):  # The last process has closed its side.
            while self._closed not in select.select([self._master, self._closed], [], [])[0]:
                self._said += os.read(self._master, 1 << 16)
        os.close(self._master)
        os.close(self._closed)
