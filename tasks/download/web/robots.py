"""What sites ask of robots: the X-Robots-Tag of an answer, and a host's robots.txt."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from urllib.parse import urlsplit

from protego import Protego

ROBOTS_BYTES = 512_000  # What is read of a robots.txt; RFC 9309 asks for 500 KiB at least.
_KEPT = 2_000  # origins; the rules of one take about 50 kB where they are many
_AGENT = re.compile(r"[a-z_][a-z0-9_.-]*|\*")
_VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


def product_token(user_agent: str) -> str:
    """Our name in a site's rules: the first product of the user agent, without its version."""
    return re.split(r"[\s/(;]", user_agent.strip(), maxsplit=1)[0].lower()


def opts_out(headers: Iterable[str], directives: Collection[str], agent: str) -> str | None:
    """The first X-Robots-Tag directive that keeps us out, or None.

    A header is a comma list; `agent:` before a directive limits it, and those after it, to that robot. `none` is short
    for `noindex, nofollow`. A date in `unavailable_after` may hold commas and colons, and limits nothing.

    Args:
        headers: the values of all X-Robots-Tag headers of one answer.
        directives: what counts as opting out, in lower case.
        agent: our product token.
    """
    for header in headers:
        scope = agent
        for part in header.lower().split(","):
            name, colon, rest = part.partition(":")
            name, directive = name.strip(), part.strip()
            if colon and name not in _VALUED and _AGENT.fullmatch(name):
                scope, directive = name, rest.strip()
            meant = "noindex" if directive == "none" else directive
            if meant in directives and scope in (agent, "*"):
                return directive
    return None


class RobotsRules:
    """The robots.txt of every host asked about, each read once, for any number of threads.

    The rules of the 2,000 origins asked for last are kept for good; a failure to read some is told to all who wait for
    them and then forgotten, so that asking again can succeed. Crawl-delay is ignored: how many requests a host gets at
    once is ours to limit, whatever it asks.

    Args:
        read: a robots.txt by its URL; None where there is none, so that everything is allowed. Its errors are passed
            on to those who ask.
        agent: our product token.
    """

    def __init__(self, read: Callable[[str], bytes | None], agent: str) -> None:
        self._read = read
        self._agent = agent
        self._lock = threading.Lock()
        self._rules: dict[str, Future[Protego | None]] = {}

    def allow(self, url: str, seconds: float) -> bool:
        """Whether the URL's host lets us fetch it.

        Raises:
            TimeoutError: another thread has been reading its robots.txt for that many seconds.
        """
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"
        with self._lock:
            rules = self._rules.pop(origin, None)
            first = rules is None
            if rules is None:
                rules = Future()
            self._rules[origin] = rules
            if len(self._rules) > _KEPT:
                del self._rules[next(iter(self._rules))]
        if first:
            self._fill(rules, origin)
        known = rules.result(timeout=seconds)
        return known is None or known.can_fetch(url, self._agent)

    def _fill(self, rules: Future[Protego | None], origin: str) -> None:
        try:
            text = self._read(f"{origin}/robots.txt")
            parsed = None if text is None else Protego.parse(text.decode("utf-8-sig", errors="replace"))
        except BaseException as error:
            with self._lock:
                if self._rules.get(origin) is rules:
                    del self._rules[origin]
            rules.set_exception(error)
            raise
        rules.set_result(parsed)
