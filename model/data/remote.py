"""Files on object stores: their drivers, and their errors as one sentence.

Endpoint and credentials come from the environment that the driver reads, never from a URI.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import fsspec

from feature_extraction.samples.tars import ShardError
from model.errors import InputError

_DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}


def connect(uri: str) -> tuple[Any, str]:
    """The file system of a URI, and the path on it.

    It caches no listing: features may just have been made.

    Raises:
        InputError: there is none of that kind, its driver is not installed, or the URI holds a password.
    """
    protocol = uri.partition("://")[0]
    if "@" in urlsplit(uri).netloc:
        raise InputError(
            f"a {protocol}:// URI holds a user name or password, which would be written into the run's records; set "
            "them in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    try:
        fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        driver = _DRIVERS.get(protocol)
        command = f"run `pip install {driver}`" if driver else str(error)
        raise InputError(f"{uri} cannot be opened: the driver of {protocol}:// is not installed; {command}") from error
    except ValueError as error:
        raise InputError(f"{uri} cannot be opened ({error}); give a folder, or an s3:// or gs:// URI") from error
    return fs, str(path).rstrip("/")


@contextmanager
def fetching(uri: str) -> Iterator[None]:
    """Name the file in a driver's errors, some of which have types of their own. FileNotFoundError passes.

    Raises:
        InputError: it cannot be fetched.
    """
    try:
        yield
    except (FileNotFoundError, InputError, ShardError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{uri} cannot be fetched ({reason}); check network and credentials and start again: what was fetched is "
            "kept"
        ) from error
