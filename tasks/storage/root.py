"""The root: the only file that knows paths, and the only one that publishes.

    ROOT/datasets/DATASET/SPLIT/manifest.parquet      every input row, with its key    + manifest.json
                               captions.parquet       rows whose image arrived         + captions.json
                               images/images-00042.tar                                 + images-00042.json
                               images/outcomes-00042.parquet
                               download.json          the settings that its images were made with
                               text.json              of text alone: the files that it is made of
                               text/text-00042.parquet                                 + text-00042.json
                               text/manifest.json     (written last)
                               placeholders.parquet   rows whose picture came from many URLs
                               journal/00042.journal  what an unfinished shard has fetched so far
    ROOT/features/EXTRACTOR/extractor.json            what the fingerprint EXTRACTOR means
    ROOT/features/EXTRACTOR/DATASET/SPLIT/regions-00042.tar                            + regions-00042.json
                                          failed-00042.parquet  (where pictures failed)
                                          manifest.json                                (written last)
                                          made-from.json   which rows and images these features are of
    ROOT/runs/RUN/                                    config, checkpoints, metrics of one training run
                  checkpoints/step-0000700/files.json  on an object store: what this checkpoint's files are
    ROOT/scores/EVALUATION/                           blocks of scores, metrics.json, report.html
    ROOT/history.jsonl                                one line per evaluation, append-only
    ROOT/report.html, download.html, download.json    what came of it, for people; of the download, for programs too
    ROOT/sweeps/SWEEP.html, SWEEP.json                variants of one experiment beside each other
    ROOT/inspect-DATASET-SPLIT.html                   a look at features
    ROOT/locks/                                       while a run trains, a shard is extracted, features are imported

The `.json` on the right is the receipt, written last. A file is published whole or not at all: `.part`, fsync,
rename, fsync of the folder; on an object store, one upload. kill -9 at any moment leaves no torn file under a final
name.
"""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, TypeVar

from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ValidationError

from model.publish import sync_folder
from tasks.errors import StorageError, UserError, writing
from tasks.records import FileDigest, Receipt
from tasks.storage.object_store import ObjectStore

Model = TypeVar("Model", bound=BaseModel)
PART = ".part"
_READERS = 16
"""Small files that are read from an object store at once."""


class Root:
    """A folder, local or on an object store, that holds everything. Paths below it are relative to it."""

    def __init__(self, uri: str) -> None:
        """Looks at nothing yet.

        Raises:
            UserError: the URI cannot be one of a root, or its driver is not installed.
        """
        self.uri = uri.rstrip("/") or "/"
        protocol, separator, _ = uri.partition("://")
        self.is_local = not separator or protocol in ("file", "local")
        if self.is_local:
            self._folder = Path(LocalFileSystem._strip_protocol(uri))
        else:
            self._store = ObjectStore(uri)

    def path(self, relative: str) -> str:
        """The full name of a path below the root: a local path, or a URI."""
        whole = str(self._folder) if self.is_local else self.uri
        return f"{whole.rstrip('/')}/{relative}" if relative else whole

    def local(self, relative: str, needed_for: str = "this step") -> Path:
        """The local path of a path below the root.

        Raises:
            UserError: the root is not a local folder.
        """
        if not self.is_local:
            raise UserError(f"{needed_for} needs a local root, and {self.uri} is not one; copy it to a disk")
        return self._folder / relative

    def check_writable(self) -> None:
        """Raise UserError unless files can be written under the root. Leaves nothing behind but the folder."""
        probe = f".writable-{_own_name()}"
        try:
            self.publish_bytes(probe, b"")
            self.remove(probe)
        except OSError as error:
            raise UserError(f"cannot write under root {self.uri}: {error}; give a folder you may write to") from error

    def exists(self, relative: str) -> bool:
        """Whether there is a file or a folder of this name."""
        return (self._folder / relative).exists() if self.is_local else self._store.size(relative) is not None

    def size(self, relative: str) -> int | None:
        """Bytes of a file; None where there is none."""
        if not self.is_local:
            return self._store.size(relative)
        try:
            return (self._folder / relative).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, relative: str) -> list[str]:
        """Sorted names in a folder, without unfinished `.part` files; empty for an absent folder or a file."""
        if self.is_local:
            try:
                names = [path.name for path in (self._folder / relative).iterdir()]
            except (FileNotFoundError, NotADirectoryError):
                return []
        else:
            names = self._store.names(relative)
        return sorted(name for name in names if not name.endswith(PART))

    @contextmanager
    def open(self, relative: str) -> Iterator[IO[bytes]]:
        """Open a seekable stream to read from.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with (self._folder / relative).open("rb") if self.is_local else self._store.open(relative) as stream:
            yield stream

    def read_bytes(self, relative: str) -> bytes:
        """Read the whole content of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        return (self._folder / relative).read_bytes() if self.is_local else self._store.read(relative)

    def modified(self, relative: str) -> float:
        """When a file was written, in seconds since the epoch.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return (self._folder / relative).stat().st_mtime if self.is_local else self._store.modified(relative)

    def fetch(self, relative: str, target: Path, expected: FileDigest | None = None) -> None:
        """Copy an object store's file to a local path, whole or not at all.

        Args:
            expected: what the file is known to be; None: whatever it is.

        Raises:
            FileNotFoundError: there is no such file.
            StorageError: what arrived is not what was expected.
        """
        assert not self.is_local, "a file of a local root is read where it lies"
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{_own_name()}{PART}")
        try:
            with writing(target):
                self._store.download(relative, part)
            if expected is not None and file_digest(part) != expected:
                raise StorageError(
                    f"{self.path(relative)} did not arrive as it was written ({part.stat().st_size} bytes of "
                    f"{expected.bytes}, or of another sha256); run the same command again, or have the file made again"
                )
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def upload(self, source: Path, relative: str) -> None:
        """Replace an object by a local file, whole or not at all."""
        assert not self.is_local, "a file of a local root is written where it belongs"
        self._store.upload(source, relative)

    def remove(self, relative: str) -> None:
        """Remove a file, durably; it is no error if there is none."""
        if not self.is_local:
            self._store.remove(relative)
            return
        target = self._folder / relative
        if target.exists():
            target.unlink()
            sync_folder(target.parent)

    def remove_empty_folders(self, relative: str) -> None:
        """Remove a folder and its parents below the root, as far as they are empty."""
        if not self.is_local:
            return  # An object store has no folders.
        for folder in [Path(relative), *Path(relative).parents[:-1]]:
            try:
                (self._folder / folder).rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return
            sync_folder((self._folder / folder).parent)

    def publish(self, relative: str, write: Callable[[IO[bytes]], object]) -> FileDigest:
        """Write a file whole or not at all, replacing any, and return its digest."""
        if not self.is_local:
            # A shard is larger than memory has room for, once per worker. The suffix tells browsers what it is.
            with NamedTemporaryFile(prefix="unicoder-vl-", suffix=Path(relative).suffix) as stream:
                with writing(Path(stream.name)):
                    write(stream)
                    stream.flush()
                digest = file_digest(Path(stream.name))
                self._store.upload(Path(stream.name), relative)
            return digest
        target = self._folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{_own_name()}{PART}")
        _drop_parts_of_the_dead(target)
        try:
            with writing(target), part.open("wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            digest = file_digest(part)
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)
        return digest

    def publish_bytes(self, relative: str, content: bytes) -> FileDigest:
        return self.publish(relative, lambda stream: stream.write(content))

    def publish_model(self, relative: str, model: BaseModel) -> FileDigest:
        """Publish a pydantic model as indented JSON."""
        return self.publish_bytes(relative, (model.model_dump_json(indent=2) + "\n").encode())

    def read_model(self, relative: str, model: type[Model]) -> Model | None:
        """Read the model in a JSON file; None where the file is absent.

        Raises:
            UserError: the file is there but is not such a model (it was edited, or is of another version).
        """
        try:
            content = self.read_bytes(relative)
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise UserError(f"cannot write under root {self.uri}: it is not a folder; give a folder") from error
        try:
            return model.model_validate_json(content)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"]) or "content"
            raise UserError(
                f"{self.path(relative)} is not a {model.__name__} ({where}: {problem['msg']}); "
                "it was changed by hand or by another version: remove it to have it made again"
            ) from error

    def read_models(self, relatives: Sequence[str], model: type[Model]) -> list[Model | None]:
        """Read many small JSON files, in order; from an object store, many at once. Raises as `read_model`."""
        if self.is_local:
            return [self.read_model(relative, model) for relative in relatives]
        with ThreadPoolExecutor(_READERS, "read") as pool:
            return list(pool.map(lambda relative: self.read_model(relative, model), relatives))

    def append_line(self, relative: str, line: str) -> None:
        """Append one line to a text file, durably. On an object store the whole file is written again."""
        if self.is_local:
            target = self._folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with writing(target), target.open("ab") as stream:
                stream.write(line.encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            return
        before = self.read_bytes(relative) if self.exists(relative) else b""
        self.publish_bytes(relative, before + line.encode() + b"\n")

    def done(self, relative: str, fingerprint: str) -> Receipt | None:
        """The receipt at this path if its fingerprint is this one and its files are whole; else None."""
        receipt = self.read_model(relative, Receipt)
        if receipt is None or receipt.fingerprint != fingerprint:
            return None
        folder = relative.rsplit("/", 1)[0]
        whole = all(self.size(f"{folder}/{name}") == digest.bytes for name, digest in receipt.files.items())
        return receipt if whole else None


def file_digest(path: Path) -> FileDigest:
    with path.open("rb") as stream:
        return FileDigest(bytes=path.stat().st_size, sha256=hashlib.file_digest(stream, "sha256").hexdigest())


def _machine_name() -> str:
    """This host and its process namespace: containers may share the first, and then not the second."""
    try:
        space = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        space = 0
    return f"{platform.node()}.{space}"


def _own_name() -> str:
    """A unique part of a temporary file's name: machine, process and a random number."""
    return f"{_machine_name()}.{os.getpid()}.{secrets.token_hex(4)}"


def _drop_parts_of_the_dead(target: Path) -> None:
    """Remove a file's half-written copies by killed processes of this machine."""
    own = f"{target.name}.{_machine_name()}."
    older = f"{target.name}.{platform.node()}."  # Followed by nothing but the process in names of older versions.
    for part in target.parent.glob(f"{glob.escape(older)}*{PART}"):
        name = part.name.removesuffix(PART)
        process = name.removeprefix(own).partition(".")[0] if name.startswith(own) else name.removeprefix(older)
        if process.isdecimal() and int(process) != os.getpid() and not _is_alive(int(process)):
            part.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def now() -> str:
    """UTC time in ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Stopwatch:
    """Wall time in seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self._start, 3)
