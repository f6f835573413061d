"""HTTP answers read under their request's deadline, to their end and not a byte further.

A kept connection serves the next request only where nothing lies in it that belongs to the one before. Else a row
would get the picture of another: servers send early hints, answers twice, and bodies longer than they say. What comes
so late that the next request is under way cannot be told from its answer, unless that comes too; so a server that was
seen to send what nobody asked for gets no second request on a connection.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
from contextlib import suppress
from typing import Any

from tasks.download.web.attempt import current_attempt, failed
from tasks.records import Outcome

_MOST_INTERIM = 20  # answers of 1xx before the one that counts; one or two are usual
_WITHOUT_BODY = (204, 304)


class _DeadlineStream(io.RawIOBase):
    """A socket's bytes; every read waits at most until the attempt's deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # Keeps the descriptor open after http.client closes the socket, as its own reader would.
        self._stream = sock.makefile("rb", buffering=0)
        self._attempt = current_attempt()
        self.waits = True  # False: what has not come by now does not count

    def makefile(self, mode: str) -> io.BufferedReader:
        """Give http.client the deadline stream."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if not self.waits:
            self._sock.settimeout(0.0)
            with suppress(OSError):  # An SSL error is one, and so is a closed connection.
                return self._stream.readinto(buffer)
            return None
        self._sock.settimeout(self._attempt.wait(self._attempt.config.read_timeout_seconds))
        count = self._stream.readinto(buffer)
        self._attempt.alive = True
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


class FramedResponse(http.client.HTTPResponse):
    """An answer read under the deadline from its first header byte on.

    It is made in the thread that asked.

    Attributes:
        is_first: on its connection.
        is_early: it had begun to come before the request was sent.
        keeps: its connection can serve another request: the answer has ended, its head said beyond doubt where, and
            nothing lay behind it.
        surplus: the start of what lay behind it.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        self._stream = _DeadlineStream(sock)
        super().__init__(self._stream, *args, **kwargs)  # type: ignore[arg-type]
        self._attempt = current_attempt()
        self._attempt.doubt = ""
        self.is_first = True
        self.is_early = False
        self.keeps = False
        self.surplus = b""

    def _read_status(self) -> tuple[str, int, str]:
        """Read the first line of the final answer; those of 1xx before it tell us nothing."""
        for _ in range(_MOST_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise failed(Outcome.CONNECT, f"no HTTP answer: {_MOST_INTERIM} interim ones and no other")

    def _close_conn(self) -> None:
        """Judge the connection when its answer has ended or is given up; then urllib3 closes it as well."""
        self._stream.waits = False
        with suppress(OSError, ValueError):
            self.surplus = self.fp.peek(1)
        self.keeps = not self.surplus and self._is_framed()
        # The other thread that may get the connection next shall not be able to change what this one finds.
        self._attempt.doubt = self._doubt()
        super()._close_conn()  # type: ignore[misc]

    def _is_framed(self) -> bool:
        """Whether the head surely says where the body ends, and leaves the connection open."""
        headers = self.headers
        if headers is None or headers.defects or headers.get_payload():
            return False  # What follows a malformed line was not read as headers.
        options = {
            option.strip().lower()
            for name in ("Connection", "Proxy-Connection")
            for value in headers.get_all(name, [])
            for option in value.split(",")
        }
        if "close" in options or self.status in _WITHOUT_BODY:  # Some send one all the same.
            return False
        lengths = [length.strip() for length in headers.get_all("Content-Length", [])]
        codings = [coding.strip().lower() for coding in headers.get_all("Transfer-Encoding", [])]
        if codings:
            return codings == ["chunked"] and not lengths and self.version == 11
        return len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdecimal()

    def _doubt(self) -> str:
        """Why this may be the answer to another request; empty where it is surely this one's."""
        if (
            self.is_early and self.headers is not None and self.status < 400
        ):  # To be turned away before one has asked is usual.
            return "answered before the request was sent"
        # On a new connection the first answer is the request's, whatever follows.
        return "" if self.is_first or not self.surplus else "more than one answer to the request"


class OneAnswerPerRequest:
    """A connection that sends a request only where nothing lies unread."""

    sock: socket.socket | None
    _answer: FramedResponse | None = None
    _answers = 0  # on this socket
    _is_early = False
    _was_unasked = False

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self._answers = 0
        assert self.sock is not None
        # A TLS socket cannot be looked into without taking what is there.
        self._is_early = not isinstance(self.sock, ssl.SSLSocket) and bool(_come(self.sock))

    def request(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().request(*args, **kwargs)  # type: ignore[misc]
        except (BrokenPipeError, ConnectionResetError) as error:
            # urllib3 would go on and read an answer, which could only be to something else.
            raise failed(Outcome.CONNECT, "connection closed before the request was sent") from error

    def _begin_answer(self, sock: socket.socket, *args: Any, **kwargs: Any) -> FramedResponse:
        self._answers += 1
        self._answer = FramedResponse(sock, *args, **kwargs)
        self._answer.is_first = self._answers == 1
        self._answer.is_early = self._answer.is_first and self._is_early
        return self._answer

    response_class: Any = _begin_answer  # what http.client makes an answer with

    @property
    def keeps(self) -> bool:
        """Whether the connection can be used again after its last answer."""
        return self._answer is None or self._answer.keeps

    @property
    def is_unasked(self) -> bool:
        """Whether the server has ever sent unrequested bytes here."""
        return self._was_unasked or self._is_early or (self._answer is not None and bool(self._answer.surplus))

    @property
    def is_connected(self) -> bool:
        """Whether urllib3 may use the connection again; else it makes a new one."""
        if self.sock is None or not self.keeps:
            return False
        come = _come(self.sock)
        self._was_unasked = self._was_unasked or bool(come)
        return come is None


class OneAnswerPool:
    """A pool that distrusts a server which once sent unrequested bytes: a new connection per request.

    What it sends late would else be taken for the next answer. A proxy counts as the server of all that it serves.
    """

    _is_distrusted = False

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection = super()._get_conn(timeout)  # type: ignore[misc]
        self._note(connection)
        return connection

    def _put_conn(self, connection: Any) -> None:
        if connection is not None:
            self._note(connection)
        super()._put_conn(connection)  # type: ignore[misc]

    def _note(self, connection: Any) -> None:
        self._is_distrusted = self._is_distrusted or connection.is_unasked
        if self._is_distrusted or not connection.keeps:
            connection.close()


def _come(sock: socket.socket) -> bytes | None:
    """A byte that has already arrived; b"" where the other side has closed, None while it is silent."""
    timeout = sock.gettimeout()
    sock.settimeout(0.0)
    try:
        return sock.recv(1, 0 if isinstance(sock, ssl.SSLSocket) else socket.MSG_PEEK)
    except (BlockingIOError, ssl.SSLWantReadError):
        return None
    except OSError:
        return b""
    finally:
        sock.settimeout(timeout)
