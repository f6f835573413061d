"""Serve a drawn world on this machine with its faults: the network of the demo and of the tests."""

from __future__ import annotations

import re
import socket
import socketserver
import sys
import threading
from collections import Counter
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from tasks.world.dataset import PICTURES, Fault, read_world

# The only paths served: nothing else reaches the file system, so no request can leave the folder.
_PICTURE = re.compile(r"(?:/moved)?(/[a-z]+(?:/[a-z]+)?/[0-9]{6}\.jpg)")
_PAGE = b"<!doctype html><html><title>Moved on</title><p>This picture is no longer shared here.</html>\n"


class WorldServer:
    """Serves a world's pictures at http://127.0.0.1:{server.port}/: `with WorldServer(folder, port) as server:`.

    Port 0 picks a free one. `requests` counts what was asked for, by URL path.

    Raises:
        UserError: the folder holds no finished world.
        OSError: on entering, where the port is taken.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.port = port
        self.requests: Counter[str] = Counter()
        self._pictures = folder / PICTURES
        self._faults = read_world(folder).faults
        self._counting = threading.Lock()

    def __enter__(self) -> WorldServer:
        self._server = _Server(self, self.port)
        self.port = self._server.server_port
        # A short poll, so that leaving the block does not wait for the default half second.
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="world-server", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._server.close_connections()
        self._thread.join()

    def answer(self, path: str) -> tuple[HTTPStatus, dict[str, str], bytes]:
        """Status, headers and body for a URL path; counts the request."""
        with self._counting:
            self.requests[path] += 1
            first = self.requests[path] == 1
        match = _PICTURE.fullmatch(path)
        if match is None:
            return _text(HTTPStatus.NOT_FOUND)
        picture = match[1]
        match self._faults.get(path):
            case Fault.NOT_FOUND:
                return _text(HTTPStatus.NOT_FOUND)
            case Fault.UNAVAILABLE_ONCE if first:
                return _text(HTTPStatus.SERVICE_UNAVAILABLE)
            case Fault.REDIRECT:
                return HTTPStatus.FOUND, {"Location": f"/moved{picture}"}, b""
            case Fault.HTML:
                return HTTPStatus.OK, {"Content-Type": "text/html"}, _PAGE
            case fault:
                try:
                    content = (self._pictures / picture[1:]).read_bytes()
                except FileNotFoundError:
                    return _text(HTTPStatus.NOT_FOUND)
                if fault == Fault.TRUNCATED:
                    content = content[: len(content) // 2]
                return HTTPStatus.OK, {"Content-Type": "image/jpeg"}, content


def _text(status: HTTPStatus) -> tuple[HTTPStatus, dict[str, str], bytes]:
    return status, {"Content-Type": "text/plain"}, f"{status.value} {status.phrase}\n".encode()


class _Server(ThreadingHTTPServer):
    """A server that closes idle kept-alive connections, too, when its block ends."""

    daemon_threads = True
    request_queue_size = 256
    allow_reuse_port = False  # a second server on the port must fail, not share it

    def __init__(self, world: WorldServer, port: int) -> None:
        self.world = world
        self._connections: set[socket.socket] = set()
        self._changing = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the name service for this machine's name, which may take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()

    def connection_opened(self, connection: socket.socket) -> None:
        with self._changing:
            self._connections.add(connection)

    def connection_closed(self, connection: socket.socket) -> None:
        with self._changing:
            self._connections.discard(connection)

    def close_connections(self) -> None:
        with self._changing:
            for connection in self._connections:
                with suppress(OSError):  # the client may have closed it a moment ago
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that hang up; the default prints a trace for any error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open
    disable_nagle_algorithm = True
    wbufsize = 1 << 16  # headers and body leave in one send, when the request is done
    timeout = 60.0
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connection_opened(self.connection)

    def finish(self) -> None:
        self.server.connection_closed(self.connection)
        super().finish()

    def do_GET(self) -> None:
        status, headers, body = self.server.world.answer(self.path)
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: there are thousands of requests."""
