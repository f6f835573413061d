"""Files of a root on an object store: S3, Google Cloud Storage, or any other that fsspec has a driver for.

Endpoint and credentials are the driver's business: for s3:// the usual environment (AWS_ENDPOINT_URL, AWS_PROFILE,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...). They are no part of a URI: that goes into parameters, records and pages.

Nothing that was listed is remembered: another machine may have written since. What a driver raises becomes a UserError
where the user can mend it, else a StorageError; unlike some of the drivers' own, both reach the parent of a worker.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import fsspec

from tasks.errors import StageError, StorageError, UserError
from tasks.storage.logins import has_login, without_login

_DRIVERS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_BLOCK_BYTES = 8 * 1024**2
"""Fetched by one request of a reader. The driver of s3:// would take 50 MB, for one picture of a shard, too."""
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"}
"""Names of botocore's exceptions, which need not be installed."""


class ObjectStore:
    """The files under an fsspec URI. Paths are relative to it.

    A file appears whole or not at all: an upload is one request, or one of parts that its last request joins.
    """

    def __init__(self, uri: str) -> None:
        """Request nothing yet.

        Raises:
            UserError: the URI holds a password, names no bucket, or has no driver here.
        """
        protocol, _, rest = uri.partition("://")
        if has_login(uri) or "?" in rest:
            raise UserError(
                f"the root's {protocol}:// URI holds a user name, a password or a query, which would be written into "
                "records and pages; leave them out and set them in the environment, such as AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY"
            )
        if not rest.strip("/"):
            raise UserError(f"root {uri!r} names no bucket; give {protocol}://BUCKET/FOLDER")
        self.uri = uri.rstrip("/")
        try:
            self._fs, base = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        except ImportError as error:
            driver = _DRIVERS.get(protocol)
            how = f"run: pip install {driver}" if driver else str(error)
            raise UserError(f"root {uri} cannot be opened: no driver of {protocol}:// is installed; {how}") from error
        except ValueError as error:
            raise UserError(f"root {uri} cannot be opened ({error}); give a folder, or s3://BUCKET/FOLDER") from error
        self._base = str(base).rstrip("/")

    def size(self, relative: str) -> int | None:
        """Bytes of a file; 0 for a folder, None where there is nothing."""
        with self._named_errors():
            try:
                return int(self._fs.info(self._path(relative))["size"] or 0)
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None

    def names(self, relative: str) -> list[str]:
        """Names in a folder; none in one that is not there."""
        with self._named_errors():
            try:
                entries = self._fs.ls(self._path(relative), detail=False)
            except FileNotFoundError as error:
                self._check_bucket(error)
                return []
        folder = self._path(relative).lstrip("/") + "/"  # A path of a bucket may begin with a slash, or not.
        paths = [str(entry).lstrip("/").rstrip("/") for entry in entries]
        names = [path.removeprefix(folder) for path in paths if path.startswith(folder)]
        # An object may be called so. A file cannot, and names become those of files.
        return [name for name in names if name not in (".", "..")]

    def read(self, relative: str) -> bytes:
        """Read the whole content of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._named_errors():
            try:
                return bytes(self._fs.cat_file(self._path(relative)))
            except FileNotFoundError as error:
                self._check_bucket(error)
                raise

    def open(self, relative: str) -> IO[bytes]:
        """Open a seekable stream to read from.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self._named_errors():
            stream = self._fs.open(self._path(relative), "rb", block_size=_BLOCK_BYTES)
        return io.BufferedReader(_Reader(stream, self))

    def upload(self, source: Path, relative: str) -> None:
        """Upload a local file under a name, replacing what is there."""
        # No folder is made: there are none on an object store, and some drivers would make a bucket of that name.
        with self._named_errors():
            try:
                self._fs.put_file(str(source), self._path(relative))
            except FileNotFoundError as error:
                raise self._no_bucket() from error

    def download(self, relative: str, target: Path) -> None:
        """Copy a file to a local path; an error may leave a part of it there.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self._named_errors():
            try:
                self._fs.get_file(self._path(relative), str(target))
            except FileNotFoundError as error:
                self._check_bucket(error)
                raise

    def modified(self, relative: str) -> float:
        """When a file was written, in seconds since the epoch.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self._named_errors():
            return float(self._fs.modified(self._path(relative)).timestamp())

    def remove(self, relative: str) -> None:
        """Remove a file; it is no error if there is none."""
        with self._named_errors():
            try:
                self._fs.rm_file(self._path(relative))
            except FileNotFoundError as error:
                self._check_bucket(error)

    def _path(self, relative: str) -> str:
        return f"{self._base}/{relative}" if relative else self._base

    def _check_bucket(self, error: FileNotFoundError) -> None:
        """Raise UserError where the bucket is missing, not only the file."""
        response = getattr(error.__cause__, "response", None) or {}
        if response.get("Error", {}).get("Code") == "NoSuchBucket":
            raise self._no_bucket() from error

    def _no_bucket(self) -> UserError:
        bucket = urlsplit(self.uri).netloc
        return UserError(
            f"root {self.uri}: there is no bucket {bucket!r} where the credentials and the endpoint lead; make it, or "
            "mend --root or AWS_ENDPOINT_URL"
        )

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Raise errors that name the root and say what to do.

        FileNotFoundError passes: often it is just an answer.
        """
        try:
            yield
        except (FileNotFoundError, UserError, StageError):
            raise
        except Exception as error:
            raise self._named(error) from error

    def _named(self, error: Exception) -> UserError | StorageError:
        # An endpoint may hold a login, and drivers say which endpoint it was.
        reason = without_login(" ".join(str(error).split()))[:300] or type(error).__name__
        if isinstance(error, PermissionError):
            return UserError(
                f"root {self.uri}: the store refuses the credentials ({reason}); check AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or the profile, and what they may do there"
            )
        if type(error).__name__ in _NO_CREDENTIALS:
            return UserError(
                f"root {self.uri}: no credentials ({reason}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "AWS_PROFILE"
            )
        if isinstance(error, ValueError):
            return UserError(f"root {self.uri} cannot be used ({reason}); check --root and AWS_ENDPOINT_URL")
        return StorageError(
            f"root {self.uri}: the store does not answer as it should ({reason}); what is done is kept: once it does, "
            "run the same command again"
        )


class _Reader(io.RawIOBase):
    """A driver's stream, raising our errors."""

    def __init__(self, stream: Any, store: ObjectStore) -> None:
        self._stream, self._store = stream, store

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._store._named_errors():
            content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with self._store._named_errors():
            return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def close(self) -> None:
        self._stream.close()
        super().close()
