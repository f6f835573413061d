"""The network goes away while a list is downloaded: the command waits for it, and no URL is lost or asked for twice."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.faults import JPEG

REPOSITORY = Path(__file__).parents[2]
ROWS, SHARD_ROWS = 240, 60
SETTINGS = {
    "allow_private_addresses": "true",
    "env_proxies": "false",
    "min_side": 8,
    "threads": 4,
    "backoff_seconds": 0.2,  # Long enough for all hosts to be gone before a URL of one has had its three attempts.
}

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs 127.0.0.2 and its neighbours, which only Linux gives to everybody"
)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: object) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.server.web.connections.add(self.connection)

    def do_GET(self) -> None:
        web: Web = self.server.web
        name = f"{self.server.server_address[0]}{self.path}"
        with web.lock:
            web.requests[name] += 1
            web.answering += 1
        time.sleep(0.01)
        try:
            with suppress(OSError):
                self.send_response(200)
                self.send_header("Content-Length", str(len(JPEG)))
                self.end_headers()
                self.wfile.write(JPEG)
                web.answered[name] += 1
        finally:
            with web.lock:
                web.answering -= 1
        self.close_connection = web.down.is_set()


class Web:
    """Hosts of loopback addresses and one port, that come and go together."""

    def __init__(self, hosts: int) -> None:
        self.addresses = [f"127.0.0.{number + 1}" for number in range(hosts)]
        self.lock = threading.Lock()
        self.requests: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.answering = 0
        self.connections: set[socket.socket] = set()
        self.down = threading.Event()
        self.port = 0
        self._servers: list[ThreadingHTTPServer] = []
        self.start()

    def url(self, number: int) -> str:
        return f"http://{self.addresses[number % len(self.addresses)]}:{self.port}/{number}"

    def start(self) -> None:
        self.down.clear()
        for address in self.addresses:
            server: Any = ThreadingHTTPServer((address, self.port), Handler)
            server.daemon_threads, server.block_on_close, server.web = True, False, self
            server.handle_error = lambda *_: None
            self.port = server.server_port
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            self._servers.append(server)

    def stop(self) -> None:
        """Close all listening sockets and connections; what has been asked is still answered."""
        self.down.set()
        with ThreadPoolExecutor(len(self.addresses)) as threads:
            list(threads.map(_close, self._servers))
        self._servers.clear()
        while self.answering:
            time.sleep(0.001)
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()


def _close(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()


@pytest.fixture
def web(request: pytest.FixtureRequest) -> Iterator[Web]:
    running = Web(getattr(request, "param", 6))
    yield running
    running.stop()


class Download:
    """The command, at work on a list; what it says is kept as it comes."""

    def __init__(self, rows: Path, root: Path, workers: int = 2, **settings: object) -> None:
        options = [part for name, value in {**SETTINGS, **settings}.items() for part in ("--set", f"{name}={value}")]
        place = ["--rows", str(rows), "--root", str(root), "--name", "web/train", "--shard-size", str(SHARD_ROWS)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows", "download", *place, "--workers", str(workers), "--json", *options],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        self.lines.extend(iter(self._process.stderr.readline, ""))

    def said(self, words: str) -> int:
        return sum(words in line for line in list(self.lines))

    def wait_until(self, condition: Any) -> None:
        until = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < until and self._process.poll() is None, "".join(self.lines)
            time.sleep(0.01)

    def end(self, code: int = 0) -> dict[str, int]:
        """Counts per outcome, where the command succeeds."""
        assert self._process.stdout is not None
        output = self._process.stdout.read()
        assert self._process.wait(120) == code, "".join(self.lines)
        self._listener.join(10)
        return dict(json.loads(output)["stages"][0]["counts"]) if code == 0 else {}


@pytest.mark.parametrize("web", [1, 6], indirect=True)
def test_outage_is_waited_for_and_costs_nothing(web: Web, tmp_path: Path) -> None:
    rows = tmp_path / "rows.tsv"
    rows.write_text("".join(f"caption {number}\t{web.url(number)}\n" for number in range(ROWS)))
    download = Download(rows, tmp_path / "root")
    download.wait_until(lambda: web.requests.total() >= ROWS // 4)
    web.stop()
    download.wait_until(lambda: download.said("paused") == 2)  # each of the two workers finds out
    asked = web.requests.total()
    assert asked < ROWS // 2
    web.start()
    assert download.end() == {"ok": ROWS}
    assert download.said("the network is back after") == 2
    assert len(web.answered) == ROWS and set(web.answered.values()) == {1}


def test_network_that_stays_away_ends_the_command_which_then_goes_on(web: Web, tmp_path: Path) -> None:
    rows, root = tmp_path / "rows.tsv", tmp_path / "root"
    rows.write_text("".join(f"caption {number}\t{web.url(number)}\n" for number in range(ROWS)))
    download = Download(rows, root, outage_patience_seconds=0.5)
    download.wait_until(lambda: web.requests.total() >= ROWS // 4)
    web.stop()
    download.end(code=1)
    assert "the network has been gone for" in download.lines[-1] and "what was fetched is kept" in download.lines[-1]
    assert download.said("Traceback") == 0
    assert list(root.rglob("*.journal"))
    web.start()
    assert Download(rows, root).end() == {"ok": ROWS}
    assert len(web.answered) == ROWS and set(web.answered.values()) == {1}


def test_long_run_of_dead_hosts_is_no_outage(web: Web, tmp_path: Path) -> None:
    """Eighty dead links at twenty hosts in a row; the hosts that answered before still can be connected to."""
    dead = [f"http://127.0.1.{number % 20}:{web.port}/{number}" for number in range(80)]
    alive = [web.url(number) for number in range(40)]
    rows = tmp_path / "rows.tsv"
    urls = [*alive[:10], *dead[:60], *alive[10:], *dead[60:]]
    rows.write_text("".join(f"caption {number}\t{url}\n" for number, url in enumerate(urls)))
    download = Download(rows, tmp_path / "root", workers=1, outage_patience_seconds=0)
    counts = download.end()
    assert counts.pop("ok") == 40
    assert set(counts) <= {"connect", "host_down"} and sum(counts.values()) == 80
    assert download.said("paused") == 0
