"""Connect to whichever of a host's addresses answers first, IPv6 and IPv4 in turn.

In the spirit of RFC 8305: the next address is tried where the last one fails or has not answered within a quarter of a
second, and those before it are still waited for. So dead addresses of one family cost little and hide no live one.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Sequence
from itertools import chain, zip_longest

from tasks.download.web.resolve import refuse_without_descriptors

_MOST_ADDRESSES = 32  # tried for one connection
_HEAD_START = 0.25  # seconds
_UNDER_WAY = (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR)
# What this machine says of itself, such as that it has no IPv6: a server's own refusal tells more.
_OURS = (errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def connect_to_any(addresses: Sequence[str], port: int, seconds: float) -> socket.socket:
    """Connect to one of the addresses, given in order of preference; `seconds` becomes the socket's timeout, too.

    Raises:
        TimeoutError: none has answered within so many seconds.
        OSError: all have failed; the most telling of their errors.
        UserError: the process has no file descriptor left.
    """
    until = time.monotonic() + seconds
    waiting = in_turn(addresses)[:_MOST_ADDRESSES]
    waiting.reverse()
    under_way: dict[int, socket.socket] = {}
    errors: list[OSError] = []
    poll = select.poll()
    next_at = 0.0
    try:
        while waiting or under_way:
            now = time.monotonic()
            if now >= until:
                raise TimeoutError("no connection in time")
            if waiting and (not under_way or now >= next_at):
                try:
                    sock = _begin(waiting.pop(), port)
                except OSError as error:
                    refuse_without_descriptors(error)
                    errors.append(error)
                    continue
                under_way[sock.fileno()] = sock
                poll.register(sock, select.POLLOUT)
                next_at = now + _HEAD_START
            wake = min(until, next_at) if waiting else until
            for number, _ in poll.poll(max(0.0, wake - time.monotonic()) * 1000 + 1):
                poll.unregister(number)
                sock = under_way.pop(number)
                failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not failure:
                    sock.settimeout(seconds)
                    return sock
                sock.close()
                errors.append(OSError(failure, os.strerror(failure)))
                next_at = 0.0
        raise next((error for error in errors if error.errno not in _OURS), errors[-1])
    finally:
        for other in under_way.values():
            other.close()


def in_turn(addresses: Sequence[str]) -> list[str]:
    """The addresses of both families in turn, starting with the first one's family.

    Each family keeps its order.
    """
    kinds = [":" in address for address in addresses]
    preferred = [address for address, kind in zip(addresses, kinds, strict=True) if kind == kinds[0]]
    others = [address for address, kind in zip(addresses, kinds, strict=True) if kind != kinds[0]]
    return [address for address in chain(*zip_longest(preferred, others)) if address is not None]


def _begin(address: str, port: int) -> socket.socket:
    """A socket that is connecting to an address."""
    host, _, zone = address.partition("%")
    if ":" in host:
        scope = 0 if not zone else int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        target: tuple[str, int] | tuple[str, int, int, int] = (host, port, 0, scope)
    else:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        target = (host, port)
    sock.setblocking(False)
    failure = sock.connect_ex(target)
    if failure not in _UNDER_WAY:
        sock.close()
        raise OSError(failure, os.strerror(failure))
    return sock
