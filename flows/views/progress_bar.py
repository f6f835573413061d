"""A progress bar on Prefect's page of a run, beside the log lines of `flows.views.progress`."""

from __future__ import annotations

import contextvars
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from uuid import UUID

from httpx import HTTPError
from prefect.artifacts import create_progress_artifact, update_progress_artifact

log = logging.getLogger("flows.views.progress")

EVERY_SECONDS = 5.0


@contextmanager
def progress_bar(name: str, every_seconds: float = EVERY_SECONDS) -> Iterator[Callable[[float], None]]:
    """A function to tell how much is done, from 0 to 1, from any thread; the bar follows every few seconds.

    There is no bar until something was told, so a stage that finds its work done shows none. The server is spoken to
    by a thread of its own: work never waits for it. A server that does not answer ends the bar, not the run.

    Args:
        name: of the stage or run, such as `download` or `pretrain-0123456789ab`.
    """
    bar = _Bar(name, every_seconds)
    # In the caller's context, which tells Prefect whose bar it is.
    thread = threading.Thread(
        target=partial(contextvars.copy_context().run, bar.follow), name="progress-bar", daemon=True
    )
    thread.start()
    try:
        yield bar.tell
    finally:
        bar.close()
        thread.join(
            every_seconds
        )  # Not for ever: the server may be slow to answer, and the run may be being cancelled.


class _Bar:
    def __init__(self, name: str, every_seconds: float) -> None:
        self._name = name
        self._every = every_seconds
        self._closed = threading.Event()
        self._told: float | None = None
        self._artifact: UUID | None = None
        self._shown: float | None = None

    def tell(self, share: float) -> None:
        self._told = share

    def close(self) -> None:
        self._closed.set()

    def follow(self) -> None:
        """Show what was told, until the bar is closed and once more."""
        try:
            while not self._closed.wait(self._every):
                self._show()
            self._show()
        except HTTPError as error:
            log.warning("%s: its progress bar stands still, the Prefect server does not answer (%s)", self._name, error)

    def _show(self) -> None:
        if self._told is None or self._told == self._shown:
            return
        percent = round(100 * self._told, 1)
        if self._artifact is None:
            key = re.sub(r"[^a-z0-9]+", "-", f"progress-{self._name}".lower())
            made = create_progress_artifact(percent, key=key, description=self._name)
            assert isinstance(made, UUID)  # Not a coroutine: this thread has no event loop.
            self._artifact = made
        else:
            update_progress_artifact(self._artifact, percent)
        self._shown = self._told
