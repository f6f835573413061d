"""Sha256 of files that decide what is made: weights, vocabularies, model configs."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from feature_extraction.weight_files import content_problem
from tasks.errors import UserError


def file_sha256(path: str, field: str) -> str:
    """Digest of a file's content, read again only when its size or time has changed.

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


def weights_sha256(path: str, field: str) -> str:
    """Digest of a weight file, which is checked first, before anything that needs it begins.

    Raises:
        UserError: as `file_sha256`; or it is a Git LFS pointer, a web page, empty or packed.
    """
    digest = file_sha256(path, field)
    if (problem := content_problem(Path(path))) is not None:
        raise UserError(f"{field}: {path} {problem}")
    return digest


@lru_cache(maxsize=32)
def _cached_sha256(path: str, size: int, modified_ns: int) -> str:
    """Digest by path, size and time: weights are hundreds of megabytes, and asked for once per shard and run."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
