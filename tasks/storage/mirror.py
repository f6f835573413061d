"""Keep a root's folder on an object store in step with a local working copy.

A module that trains or scores knows local folders only. While it runs, a thread of this process looks at its folder:
what appears whole under its name and never changes (a checkpoint, a block of scores) goes up as soon as it is there;
small files that grow go up now and then; the file that says that all is done goes up last, when the module has ended.
So a kill -9 at any moment leaves the root with whole things only, from which any machine goes on:

- a checkpoint is several objects. Its weights, which make it one for whoever reads it, are uploaded last;
- one that the training has dropped is removed there too, once the newer ones are up, its weights first.

A store that does not answer holds nothing up: the module goes on, and the upload is tried again.
"""

from __future__ import annotations

import contextvars
import fnmatch
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tasks.errors import StageError, UserError
from tasks.storage.local_copy import CHECKPOINT_RECORD, WEIGHTS, CheckpointFiles, local_copy
from tasks.storage.root import Root, file_digest

POLL_SECONDS = 2.0
"""Between looks at the local folder; after an upload that failed, twice as long each time, up to `_LONGEST_WAIT`."""
_FILES_SECONDS = 60.0
_LONGEST_WAIT_SECONDS = 60.0
_SENDING = ".sending"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """The content of a folder, as glob patterns below it.

    Attributes:
        files: that may change, or that others need: they are there before any of `whole` is.
        whole: what appears under its name when it is whole: files, or folders that are checkpoints.
        last: the file that says that all is done.
        drops: True where what is old is removed from `whole` as it goes on.
    """

    files: tuple[str, ...]
    whole: str
    last: str
    drops: bool


RUN = Layout(("job.json", "metrics.jsonl", "log.txt", "tensorboard/*"), "checkpoints/step-*", "final.json", drops=True)
SCORES = Layout(
    ("items.npz", "plan.json", "job.json", "log.txt", "positives-*.json"), "scores-*.npy", "metrics.json", drops=False
)
PREDICTED = Layout(
    ("plan.json", "job.json", "log.txt", "metrics.json"), "scores-*.npy", "predictions.parquet", drops=False
)


@contextmanager
def mirrored(root: Root, folder: str, layout: Layout, node: int = 0) -> Iterator[Path]:
    """The local folder to work in; for a local root the folder itself, and nothing else is done.

    First, what the root has of it and this machine lacks is fetched. While the block runs, and when it ends, what is
    new goes up. Where the block ends with an error, so does what is there by then.

    Args:
        root: under which the folder is kept.
        folder: below the root.
        layout: of what it holds.
        node: number of this machine where several work on it together. From those after the first nothing goes up,
            and the folder, one of their own even where they share a cache, is first made the root's.

    Raises:
        UserError: the root cannot be used.
        StageError: the store does not answer; at the end, too: it names the folder, and what to do.
    """
    if root.is_local:
        yield root.local(folder)
        return
    follows = node > 0
    mirror = _Mirror(root, folder, layout, local_copy(root).local(f"node-{node}/{folder}" if follows else folder))
    try:
        mirror.fetch(exactly=follows)
    except FileNotFoundError as error:
        raise StageError(
            f"{root.path(folder)} changed while it was fetched ({error}): another machine works on it; wait until it "
            "is done, then run the same command again"
        ) from error
    if follows:
        yield mirror.here
        return
    mirror.sync()
    with mirror.watched():
        yield mirror.here
    mirror.finish()


class _Mirror:
    """One mirrored folder: `here`, and below the root.

    Names are relative to it, such as checkpoints/step-0000700 or job.json.
    """

    def __init__(self, root: Root, folder: str, layout: Layout, here: Path) -> None:
        self.here = here
        self._root, self._folder, self._layout = root, folder, layout
        self._there: set[str] = set()
        """What is whole there."""
        self._begun_there: set[str] = set()
        """The same, and what an upload that was killed has left."""
        self._sent: dict[str, tuple[int, int]] = {}
        """Size and time of each of the files as they went up, or came."""
        self._files_sent = 0.0
        self._stopping = threading.Event()

    # --- before ----------------------------------------------------------------------------------------------------

    def fetch(self, exactly: bool) -> None:
        """Fetch what the root has. Where this machine is further than the root, it stays so, unless `exactly`."""
        self._begun_there = set(self._matching(self._layout.whole))
        self._there = {name for name in self._begun_there if self._root.exists(self._mark(name))}
        mine = set(self._whole_here())
        if self._layout.drops:
            missing = self._there - mine
            if exactly or max(self._there, default="") > max(mine, default=""):
                # Another machine went on with it: what is only here is older, or apart from it.
                for name in mine - self._there:
                    shutil.rmtree(self.here / name)
            else:
                missing = set()
        else:
            if self._differs("plan.json"):
                shutil.rmtree(self.here)  # Its blocks are cut otherwise than the root's.
            missing = self._there - set(self._whole_here())
        if missing:
            log.info("%s: fetching %d of %s", self._root.path(self._folder), len(missing), self._layout.whole)
        for name in self._files_there():
            if missing or not (self.here / name).exists():
                self._root.fetch(self._remote(name), self.here / name)
            if (self.here / name).stat().st_size == self._root.size(self._remote(name)):
                self._sent[name] = _version(self.here / name)
        for name in sorted(missing):
            self._fetch_whole(name)
        if not self._layout.drops and self._root.exists(self._remote(self._layout.last)):
            self._root.fetch(self._remote(self._layout.last), self.here / self._layout.last)
            self._sent[self._layout.last] = _version(self.here / self._layout.last)

    def _fetch_whole(self, name: str) -> None:
        target, remote = self.here / name, self._remote(name)
        if not self._layout.drops:
            self._root.fetch(remote, target)
            return
        part = target.with_name(f".{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        record = self._root.read_model(f"{remote}/{CHECKPOINT_RECORD}", CheckpointFiles)
        known = {} if record is None else record.files
        for file in self._root.names(remote):
            if file != CHECKPOINT_RECORD:
                self._root.fetch(f"{remote}/{file}", part / file, known.get(file))
        part.rename(target)

    def _differs(self, name: str) -> bool:
        """Whether a file is on both sides with different content."""
        path = self.here / name
        return (
            path.exists()
            and self._root.exists(self._remote(name))
            and (path.read_bytes() != self._root.read_bytes(self._remote(name)))
        )

    # --- meanwhile -------------------------------------------------------------------------------------------------

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Upload new files from a thread while the block runs.

        At its end, too, even where it fails.
        """
        # A copy of the context, so that its log lines go where the flow's go.
        watch = partial(contextvars.copy_context().run, self._watch)
        watcher = threading.Thread(target=watch, name="mirror", daemon=True)
        watcher.start()
        try:
            yield
        except BaseException:
            self._stop(watcher)
            try:
                self.sync(files=True)
            except (UserError, StageError, OSError) as error:
                log.warning(
                    "%s is not all under %s (%s); on this machine, the same command goes on from it",
                    self.here,
                    self._root.path(self._folder),
                    error,
                )
            raise
        self._stop(watcher)

    def _stop(self, watcher: threading.Thread) -> None:
        self._stopping.set()
        watcher.join()

    def _watch(self) -> None:
        wait, failing = POLL_SECONDS, False
        while not self._stopping.wait(wait):
            try:
                self.sync()
            except (UserError, StageError, OSError) as error:
                if not failing:
                    log.warning(
                        "nothing can be put under %s just now (%s); the work goes on in %s, and the upload is tried "
                        "again",
                        self._root.path(self._folder),
                        error,
                        self.here,
                    )
                wait, failing = min(2 * wait, _LONGEST_WAIT_SECONDS), True
            else:
                if failing:
                    log.info("%s is up to date again", self._root.path(self._folder))
                wait, failing = POLL_SECONDS, False

    def finish(self) -> None:
        """Upload the rest, and last the file that marks everything as done."""
        try:
            self.sync(files=True)
            if (self.here / self._layout.last).exists():
                self._send_file(self._layout.last)
        except (UserError, StageError, OSError) as error:
            raise StageError(
                f"the work is done, but not all of it could be put under {self._root.path(self._folder)}: {error}. It "
                f"lies in {self.here}; the same command on this machine puts it there"
            ) from error

    def sync(self, files: bool = False) -> None:
        """Upload new files, then remove dropped ones.

        Args:
            files: those that change, too, however short ago they went up.
        """
        # Listed before the files are sent: the files that describe these are older.
        whole = self._whole_here()
        new = [name for name in whole if name not in self._there]
        files = files or bool(new) or time.monotonic() - self._files_sent > _FILES_SECONDS
        for name in self._files_here():
            if files or name not in self._sent:
                self._send_file(name)
        if files:
            self._files_sent = time.monotonic()
        # The oldest first: where the newest is there, so is the best one, which may be the run's result.
        for name in new:
            self._send_whole(name)
        if self._layout.drops and whole:
            for name in sorted(self._begun_there - set(self._whole_here())):
                if name < whole[-1]:
                    self._remove_checkpoint(name)

    def _send_file(self, name: str) -> None:
        version = _version(self.here / name)
        if self._sent.get(name) != version:
            self._root.upload(self.here / name, self._remote(name))
            self._sent[name] = version

    def _send_whole(self, name: str) -> None:
        path = self.here / name
        self._begun_there.add(name)
        if self._layout.drops:
            # By links of its own: the training may drop it before it is all up.
            links = self.here / _SENDING
            shutil.rmtree(links, ignore_errors=True)
            links.mkdir()
            try:
                for file in path.iterdir():
                    os.link(file, links / file.name)
            except FileNotFoundError:
                return  # Dropped at this moment: there is a newer one.
            self._send_checkpoint(links, self._remote(name))
            shutil.rmtree(links)
        else:
            self._root.upload(path, self._remote(name))
        self._there.add(name)

    def _send_checkpoint(self, path: Path, remote: str) -> None:
        files = sorted(path.iterdir(), key=lambda file: (file.name == WEIGHTS, file.name))
        record = CheckpointFiles(files={file.name: file_digest(file) for file in files})
        for file in files:
            if file.name == WEIGHTS:
                self._root.publish_model(f"{remote}/{CHECKPOINT_RECORD}", record)
            self._root.upload(file, f"{remote}/{file.name}")

    def _remove_checkpoint(self, name: str) -> None:
        remote = self._remote(name)
        for file in sorted(self._root.names(remote), key=lambda file: file != WEIGHTS):
            self._root.remove(f"{remote}/{file}")
        self._there.discard(name)
        self._begun_there.discard(name)

    # --- what there is ---------------------------------------------------------------------------------------------

    def _remote(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _whole_here(self) -> list[str]:
        return sorted(path.relative_to(self.here).as_posix() for path in self.here.glob(self._layout.whole))

    def _mark(self, name: str) -> str:
        """The object that marks the folder as whole on the root."""
        return self._remote(f"{name}/{WEIGHTS}" if self._layout.drops else name)

    def _files_here(self) -> list[str]:
        found = (sorted(self.here.glob(pattern)) for pattern in self._layout.files)
        return [path.relative_to(self.here).as_posix() for paths in found for path in paths]

    def _files_there(self) -> list[str]:
        return [name for pattern in self._layout.files for name in self._matching(pattern)]

    def _matching(self, pattern: str) -> list[str]:
        """Names below the root's folder; only the last part of a pattern has a wildcard."""
        folder, _, last = pattern.rpartition("/")
        names = fnmatch.filter(self._root.names(f"{self._folder}/{folder}".rstrip("/")), last)
        return [f"{folder}/{name}".lstrip("/") for name in names]


def _version(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns
