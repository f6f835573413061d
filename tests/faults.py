"""Servers that misbehave on purpose, one fault per path; raw ones, for what no HTTP server would do; and a proxy."""

from __future__ import annotations

import functools
import gzip
import http.client
import io
import select
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tasks.download.config import DownloadConfig

# Waits are short so that tests are; loopback is allowed because the servers of these tests live there.
CONFIG = DownloadConfig(
    threads=8,
    connect_timeout_seconds=2.0,
    read_timeout_seconds=1.0,
    deadline_seconds=2.0,
    retries=2,
    backoff_seconds=0.01,
    max_bytes=100_000,
    max_redirects=3,
    min_side=8,
    allow_private_addresses=True,
    env_proxies=False,
)


def picture(colour: str = "red", size: tuple[int, int] = (40, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "JPEG")
    return stream.getvalue()


JPEG = picture()
DRIP_SECONDS = 0.05


@functools.cache
def bomb() -> bytes:
    """A few kilobytes that unpack, and unpack again, to 200 MB."""
    return gzip.compress(gzip.compress(bytes(200_000_000), 1))


class Handler(BaseHTTPRequestHandler):
    """One fault per path. `server.requests` counts what arrived, before it is answered."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        for name, value in self.server.extra_headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests[self.path] += 1
            count = self.server.requests[self.path]
            self.server.headers_seen[self.path] = dict(self.headers)
            self.server.clients.add(self.client_address)
        fault = self.path.split("/")[1].removesuffix(".txt")
        handle: Callable[[int], None] = getattr(self, f"do_{fault}", self.do_status)
        handle(count)

    def do_ok(self, count: int) -> None:
        self.answer(200, JPEG)

    def do_status(self, count: int) -> None:
        self.answer(int(self.path.split("/")[1]), b"no picture")

    def do_robots(self, count: int) -> None:
        """What `server.robots` says: a status, where to find it, or the text."""
        if isinstance(self.server.robots, int):
            self.answer(self.server.robots)
        elif isinstance(self.server.robots, str):
            self.answer(302, Location=self.server.robots)
        else:
            self.answer(200, self.server.robots)

    def do_once(self, count: int) -> None:
        """503 at first, then the picture."""
        if count == 1:
            self.answer(503)
        else:
            self.answer(200, JPEG)

    def do_redirect(self, count: int) -> None:
        self.answer(302, b"moved", Location="/ok/after-redirect")

    def do_loop(self, count: int) -> None:
        self.answer(301, Location=self.path)

    def do_away(self, count: int) -> None:
        self.answer(302, Location=self.server.away)

    def do_html(self, count: int) -> None:
        self.answer(200, b"<html>gone</html>")

    def do_large(self, count: int) -> None:
        self.answer(200, JPEG + bytes(200_000))

    def do_declared(self, count: int) -> None:
        """300 MB of zeros that say so."""
        self.send_response(200)
        self.send_header("Content-Length", "300000000")
        self.end_headers()
        self.send_zeros(300_000_000)

    def do_endless(self, count: int) -> None:
        """No declared length; sends until the client hangs up."""
        self.send_response(200)
        self.end_headers()
        self.send_zeros(None)

    def do_undeclared(self, count: int) -> None:
        """300 MB of zeros that do not say so."""
        self.send_response(200)
        self.end_headers()
        self.send_zeros(300_000_000)

    def send_zeros(self, most: int | None) -> None:
        sent = 0
        with suppress(OSError):
            while not self.server.closing.is_set() and (most is None or sent < most):
                self.wfile.write(bytes(1 << 16))
                sent += 1 << 16
                self.server.sent += 1 << 16
        self.close_connection = True

    def do_truncated(self, count: int) -> None:
        """The body ends before its declared length."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(JPEG)))
        self.end_headers()
        self.wfile.write(JPEG[: len(JPEG) // 2])
        self.close_connection = True

    def do_chunkcut(self, count: int) -> None:
        """A chunked body that breaks off within a chunk."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"100\r\n" + JPEG[:10])
        self.close_connection = True

    def do_chunkminus(self, count: int) -> None:
        """A chunk of negative length."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"-5\r\nabc")
        self.close_connection = True

    def do_gzip(self, count: int) -> None:
        self.answer(200, gzip.compress(JPEG), Content_Encoding="gzip")

    def do_nogzip(self, count: int) -> None:
        self.answer(200, JPEG, Content_Encoding="gzip")

    def do_inflating(self, count: int) -> None:
        """A small body that unpacks to a large one."""
        self.answer(200, gzip.compress(bytes(10_000_000)), Content_Encoding="gzip")

    def do_bomb(self, count: int) -> None:
        self.answer(200, bomb(), Content_Encoding="gzip, gzip")

    def do_cut(self, count: int) -> None:
        """The transfer is whole, the picture in it is not."""
        self.answer(200, JPEG[:-20])

    def do_reset(self, count: int) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def do_hangup(self, count: int) -> None:
        """The connection is closed without an answer."""
        self.close_connection = True

    def do_garbage(self, count: int) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        self.close_connection = True

    def do_twolengths(self, count: int) -> None:
        """A head that contradicts itself."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n123456")
        self.close_connection = True

    def do_drip(self, count: int) -> None:
        """Part of the body, then one byte at a time, always within the read timeout."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(JPEG)))
        self.end_headers()
        self.drip(JPEG)

    def do_dripheader(self, count: int) -> None:
        self.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 10_000)

    def do_dripgone(self, count: int) -> None:
        """A status that says enough, and a body that never comes to its end."""
        self.send_response(410)
        self.send_header("Content-Length", "10000")
        self.end_headers()
        self.drip(b"a" * 10_000)

    def do_hang(self, count: int) -> None:
        self.server.closing.wait(10)
        self.close_connection = True

    def do_later(self, count: int) -> None:
        if count == 1:
            self.answer(429, Retry_After="1")
        else:
            self.answer(200, JPEG)

    def drip(self, content: bytes) -> None:
        with suppress(OSError):
            for index in range(len(content)):
                self.wfile.write(content[index : index + 1])
                if self.server.closing.wait(DRIP_SECONDS):
                    break
        self.close_connection = True


class ProxyHandler(BaseHTTPRequestHandler):
    """A forwarding proxy. `server.asked` lists the request lines; `server.login` is the Proxy-Authorization wanted."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: object) -> None:
        pass

    def refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def is_allowed(self) -> bool:
        with self.server.lock:
            self.server.asked.append(self.requestline.rpartition(" ")[0])
        if self.server.login and self.headers["Proxy-Authorization"] != self.server.login:
            self.refuse(407)
        elif self.server.refuses:
            self.refuse(self.server.refuses)
        else:
            return True
        return False

    def do_GET(self) -> None:
        if not self.is_allowed():
            return
        target = urlsplit(self.path)
        upstream = http.client.HTTPConnection(target.hostname or "", target.port or 80, timeout=10)
        upstream.request("GET", target.path, headers={"Host": target.netloc})
        answer = upstream.getresponse()
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            while chunk := answer.read1(1 << 16):
                self.wfile.write(chunk)
        upstream.close()

    def do_CONNECT(self) -> None:
        if not self.is_allowed():
            return
        if self.server.stalls:
            self.server.closing.wait(10)
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as upstream:
            self.send_response_only(200, "Connection established")
            self.end_headers()
            self.wfile.flush()
            pump = {self.connection: upstream, upstream: self.connection}
            with suppress(OSError):
                while not self.server.closing.is_set():
                    for readable in select.select(list(pump), [], [], 0.1)[0]:
                        content = readable.recv(1 << 16)
                        if not content:
                            return
                        pump[readable].sendall(content)
        self.close_connection = True


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler] = Handler, tls: ssl.SSLContext | None = None) -> Iterator[Any]:
    """A server on loopback with fresh counters, until the block ends."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None
    server.lock = threading.Lock()
    server.closing = threading.Event()
    scheme = "http"
    if tls is not None:
        # Each connection's own thread shakes hands, at its first read.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "https"
    server.port = server.server_port
    server.url = f"{scheme}://{'127.0.0.1' if tls is None else 'localhost'}:{server.port}"
    forget(server)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()


def forget(server: Any) -> None:
    """Set what a server counts, and how it is to behave, back to the start."""
    server.requests = Counter()
    server.headers_seen = {}
    server.clients = set()
    server.extra_headers = []
    server.robots = 404
    server.away = ""
    server.sent = 0
    server.asked = []
    server.login = ""
    server.refuses = 0
    server.stalls = False


@contextmanager
def raw_server(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port whose connections are each handed to `behave`, in a thread of its own, and closed after it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            behave(connection)

    def accept() -> None:
        with suppress(OSError):  # raised when the listener is shut down
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    with serving() as server:
        yield server


@pytest.fixture
def server(running: Any) -> Any:
    forget(running)
    return running
