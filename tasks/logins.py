"""User names and passwords in URIs. Where we choose the URI they are refused; where a list brings them they stay in the
list's own tables, and out of pages and summaries."""

from __future__ import annotations

import re

_LOGIN = re.compile(r"^([A-Za-z][A-Za-z0-9+.:-]*://)[^/?#]*@")


def has_login(uri: str) -> bool:
    """Whether a URI names a user, as in `https://user:password@host/`. An @ further behind is part of a path."""
    return _LOGIN.match(uri) is not None


def without_login(uri: str) -> str:
    """The URI that leads to the same place and tells no password."""
    return _LOGIN.sub(r"\1", uri)
