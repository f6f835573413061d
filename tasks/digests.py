"""Sha256 of files that decide what is made: weights, vocabularies, model configs."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from tasks.errors import UserError


def file_sha256(path: str, field: str) -> str:
    """Digest of a file's content. It is read again only if its size or time have changed.

    Args:
        path: the file.
        field: of the parameters, for the message.

    Raises:
        UserError: it cannot be read.
    """
    try:
        status = Path(path).stat()
        return _cached_sha256(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{field}: {path} cannot be read ({error.strerror}); give the path of the file") from error


@lru_cache(maxsize=32)
def _cached_sha256(path: str, size: int, modified_ns: int) -> str:
    """Weights are hundreds of megabytes and asked for once per shard and run."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
