"""User names, passwords and signatures in URIs.

Where we choose the URI they are refused; where a list brings them they stay in the list's own tables, and out of pages,
summaries and messages.
"""

from __future__ import annotations

import re

_LOGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]*://)[^/?#\s]*@")
# Credentials in a query: presigned URIs of S3, Google and Azure, and passwords of web services.
_SECRET = re.compile(
    r"([?&;](?:x-(?:amz|goog)-(?:signature|credential|security-token)|(?:aws|google)access(?:key)?id|sig(?:nature)?"
    r"|(?:\w+_)?(?:token|secret|password)|api[_-]?key)=)[^&;#\s'\"]+",
    re.IGNORECASE,
)


def has_login(uri: str) -> bool:
    """Whether a URI holds credentials: `https://user:password@host/`, or `?X-Amz-Signature=...`.

    An @ further behind is part of a path.
    """
    return _LOGIN.match(uri) is not None or _SECRET.search(uri) is not None


def without_login(text: str) -> str:
    """A URI, or a text with URIs in it, without passwords and signatures."""
    return _SECRET.sub(r"\1...", _LOGIN.sub(r"\1", text))
