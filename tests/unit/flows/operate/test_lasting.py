"""A server that was away: its runs are cancelled all the same, however long it was."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import uuid
from collections.abc import Callable, Coroutine
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from prefect._internal import observers
from prefect.runner import _flow_run_executor, runner
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.workers import base

from flows.operate import lasting

RUN = uuid.uuid4()


class Api(BaseHTTPRequestHandler):
    """Of Prefect's server what is asked here: which runs are to be cancelled."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        cancelling = asked["flow_runs"]["state"]["type"]["any_"] == ["CANCELLING"]
        runs = [{"id": str(RUN), "flow_id": str(uuid.uuid4())}] if cancelling else []
        self.answer(runs)

    def do_GET(self) -> None:
        self.answer({"token": "t", "client": "c", "expiration": "2999-01-01T00:00:00Z"})

    def answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the worker's process, until the test ends."""
    for module in (observers, base):
        monkeypatch.setattr(module, "critical_service_loop", module.critical_service_loop)
    for module in (_flow_run_executor, runner, base):
        monkeypatch.setattr(module, "FlowRunCancellingObserver", module.FlowRunCancellingObserver)
    lasting.outlast_outages()


@pytest.mark.slow("waits for a server")
@pytest.mark.usefixtures("patched")
def test_a_run_is_cancelled_once_when_its_server_is_there_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    async def observe() -> list[uuid.UUID]:
        cancelled: list[uuid.UUID] = []
        kind = vars(_flow_run_executor)["FlowRunCancellingObserver"]
        observer = kind(on_cancelling=cancelled.append, polling_interval=0.05)
        async with observer:
            observer.add_in_flight_flow_run_id(RUN)
            await asyncio.sleep(0.6)  # More polls than Prefect's own survives.
            assert not cancelled
            server = ThreadingHTTPServer(("127.0.0.1", port), Api)
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            try:
                async with asyncio.timeout(60):
                    while not cancelled:
                        await asyncio.sleep(0.01)
                await asyncio.sleep(0.2)
            finally:
                server.shutdown()
                server.server_close()
        return cancelled

    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
        assert asyncio.run(observe()) == [RUN]


def failing(*errors: Exception) -> Callable[[], Coroutine[Any, Any, None]]:
    """Work that fails in these ways, one after the other."""
    left = list(errors)

    async def work() -> None:
        raise left.pop(0)

    return work


def status(code: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://127.0.0.1")
    return httpx.HTTPStatusError(str(code), request=request, response=httpx.Response(code, request=request))


def test_an_outage_of_any_length_is_waited_for_and_a_refusal_is_not() -> None:
    away = [httpx.ConnectError("refused"), httpx.ReadTimeout(""), status(503)] * 20
    with pytest.raises(KeyError, match="done"):
        asyncio.run(lasting.call_for_ever(failing(*away, KeyError("done")), 0, jitter_range=0.3))
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        asyncio.run(lasting.call_for_ever(failing(*away, status(401)), 0, backoff=4))
