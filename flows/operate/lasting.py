"""Let Prefect's worker survive a server outage.

Prefect's own stops to watch for cancellations after three failed polls, half a minute, for as long as a run lives; and
after some minutes it ends, and its runs with it. This reaches into Prefect 3.8, so it is done in one place.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self
from uuid import UUID

import anyio
import httpx
import prefect._internal.observers
import prefect.runner._flow_run_executor
import prefect.runner.runner
import prefect.workers.base
from prefect._internal.observers import FlowRunCancellingObserver
from prefect.logging import get_logger

AGAIN_SECONDS = 90.0
"""A run that is still to be cancelled so long after it was asked to end is asked again: longer than it is granted."""

log = get_logger("worker.lasting")


def outlast_outages() -> None:
    """Let this process's worker survive an outage of the server, and cancel runs after it."""
    for module in (prefect._internal.observers, prefect.workers.base):
        module.critical_service_loop = call_for_ever  # type: ignore[attr-defined]
    for observing in (prefect.runner._flow_run_executor, prefect.runner.runner, prefect.workers.base):
        observing.FlowRunCancellingObserver = LastingObserver  # type: ignore[attr-defined]


async def call_for_ever(
    workload: Callable[..., Awaitable[Any]], interval: float, run_once: bool = False, **unused: object
) -> None:
    """Call this every so many seconds, also while the server does not answer.

    In the place of Prefect's `critical_service_loop`, which gives up, and whose further arguments say when.

    Raises:
        httpx.HTTPStatusError: the server has refused a request.
    """
    away = False
    while True:
        try:
            await workload()
            if away:
                log.info("the Prefect server answers again")
            away = False
        except (httpx.TransportError, httpx.HTTPStatusError, ValueError) as error:  # The last: no JSON of Prefect's.
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
                raise
            if not away:
                said = (str(error) or type(error).__name__).splitlines()[0]
                log.warning("the Prefect server does not answer (%s); asking every %.0f s", said, interval)
            away = True
        if run_once:
            return
        await anyio.sleep(interval)


class LastingObserver(FlowRunCancellingObserver):
    """Looks for runs to cancel as long as there are runs.

    Prefect's own relies on being told of them.

    What a server tells is lost while it restarts.
    """

    def __init__(self, on_cancelling: Callable[[UUID], None], **kwargs: Any) -> None:
        super().__init__(self._ask, **kwargs)
        self._end = on_cancelling
        self._asked: dict[UUID, float] = {}

    async def __aenter__(self) -> Self:
        await super().__aenter__()  # type: ignore[no-untyped-call]
        if self._polling_task is None:
            self._polling_task = asyncio.create_task(
                call_for_ever(self._check_for_cancelled_flow_runs, self.polling_interval)
            )
        return self

    async def _check_for_cancelled_flow_runs(self) -> None:
        self._cancelling_flow_run_ids = {run for run in self._asked if self._is_asked(run)}
        if self._in_flight_flow_run_ids - self._cancelling_flow_run_ids:
            try:
                await super()._check_for_cancelled_flow_runs()  # type: ignore[no-untyped-call]
            except httpx.HTTPStatusError as error:
                log.warning("the Prefect server does not say which runs are to be cancelled (%s)", error)

    def _start_polling_task(self, task: asyncio.Task[None]) -> None:
        """Do nothing: it runs already."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("the Prefect server tells of no cancellations any more (%s); they are looked for", error)

    def _ask(self, flow_run_id: UUID) -> None:
        if not self._is_asked(flow_run_id):
            self._asked[flow_run_id] = time.monotonic()
            self._end(flow_run_id)

    def _is_asked(self, run: UUID) -> bool:
        return run in self._asked and time.monotonic() < self._asked[run] + AGAIN_SECONDS
