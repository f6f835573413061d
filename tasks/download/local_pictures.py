"""Pictures read from a local folder instead of the web: file name -> its bytes, or why not."""

from __future__ import annotations

import errno

import fsspec

from tasks.download.web.attempt import FetchError
from tasks.download.web.fetch import Answer
from tasks.records import Outcome
from tasks.rows.read import is_file_name

# What the name itself is to blame for: too long, or a loop of symbolic links.
_BAD_NAME = (errno.ENAMETOOLONG, errno.ELOOP)


class PictureFolder:
    """Reads pictures below a folder, from any number of threads at once, without any network.

    A symbolic link may lead out of the folder: the folder is the user's own, and links into a store elsewhere are a
    common way to lay out a data set. Names themselves cannot: see `rows.is_file_name`.

    Args:
        images_uri: folder or fsspec URI.
        max_bytes: largest file read, bytes.
    """

    def __init__(self, images_uri: str, max_bytes: int) -> None:
        self._files, folder = fsspec.core.url_to_fs(images_uri)
        self._folder = str(folder).rstrip("/")
        self._max_bytes = max_bytes

    def close(self) -> None:
        """Do nothing; a Fetcher has this method."""

    def attempt(self, url: str, seconds: float) -> Answer:
        """Read one picture.

        Args:
            url: its name, relative to the folder.
            seconds: not looked at. Reading from a disk cannot be cut short.

        Raises:
            FetchError: bad_url, not_found, not_an_image (a folder, a device, an empty file), too_large or forbidden.
                None of them is worth another try.
            OSError: the disk does not read: an error, not data.
        """
        if not is_file_name(url):
            raise FetchError(Outcome.BAD_URL, "not a file name below the images folder")
        path = f"{self._folder}/{url}"
        try:
            return Answer(self._read(path), None)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FetchError(Outcome.NOT_FOUND, "no such file") from error
        except IsADirectoryError as error:
            raise FetchError(Outcome.NOT_AN_IMAGE, "a folder") from error
        except PermissionError as error:
            raise FetchError(Outcome.FORBIDDEN, "no permission to read it") from error
        except OSError as error:
            if error.errno in _BAD_NAME:
                raise FetchError(Outcome.NOT_FOUND, error.strerror or "no such file") from error
            raise

    def _read(self, path: str) -> bytes:
        info = self._files.info(path)
        if info["type"] != "file":
            # Asked before it is opened: a named pipe would wait for a writer for ever.
            raise FetchError(Outcome.NOT_AN_IMAGE, "a folder" if info["type"] == "directory" else "not a regular file")
        if (info["size"] or 0) > self._max_bytes:
            raise FetchError(Outcome.TOO_LARGE, f"{info['size']} bytes, limit {self._max_bytes}")
        with self._files.open(path, "rb") as stream:
            body: bytes = stream.read(self._max_bytes + 1)
        if len(body) > self._max_bytes:
            raise FetchError(Outcome.TOO_LARGE, f"more than {self._max_bytes} bytes")
        if not body:
            raise FetchError(Outcome.NOT_AN_IMAGE, "an empty file")
        return body
