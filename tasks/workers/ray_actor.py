"""A worker on a machine of a Ray cluster: works on one shard at a time and tells of it when asked. Imports no ray."""

from __future__ import annotations

import os
import pickle
import platform
import queue
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.workers.events import Event, Tell
from tasks.workers.processes import Resources


@dataclass(frozen=True)
class Ended:
    """How work ended: with a result, or with an error."""

    result: Any = None
    error: BaseException | None = None


class ShardActor:
    """Ray makes one in a process of its own, and calls one method at a time.

    Work is done by a thread, so that `news` can wait for what it tells. Everything goes over as pickles of our own, so
    that errors arrive as what they are, and events as what they were when they were told.
    """

    def __init__(self, start: bytes, driver: str, folder: str, sees_gpus: bool, resources: Resources) -> None:
        """Begin as a process of the driver's machine would: in its working directory.

        Args:
            start: pickle of a function and its arguments, called with the `Tell` and the `Resources` before them.
            driver: name of the machine that the work comes from.
            folder: its working directory. A machine that has none of this name can do what needs no relative paths.
            sees_gpus: whether a share of a GPU is this worker's.
            resources: its share of the machine.
        """
        if Path(folder).is_dir():
            os.chdir(folder)
        if not sees_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._driver = driver
        self._news: queue.SimpleQueue[bytes | Ended] = queue.SimpleQueue()
        function, arguments = pickle.loads(start)  # noqa: S301 (from the driver, as this class itself)
        tell: Tell = self._tell
        function(tell, resources, *arguments)

    def machine(self) -> str:
        return platform.node()

    def begin(self, work: bytes) -> None:
        """Begin what is the pickle of a function, its arguments and its keywords."""
        threading.Thread(target=self._work, args=(work,), name="work", daemon=True).start()

    def news(self) -> tuple[list[bytes], bytes | None]:
        """Wait for events, or the end, of what was begun.

        Returns:
            Pickles of events, in order; and at the end that of an `Ended`.
        """
        events: list[bytes] = []
        while True:
            item = self._news.get()
            if isinstance(item, Ended):
                return events, _pickled(item)
            events.append(item)
            if self._news.empty():
                return events, None

    def _tell(self, event: Event) -> None:
        self._news.put(pickle.dumps(event))

    def _work(self, work: bytes) -> None:
        try:
            function, args, kwargs = pickle.loads(work)  # noqa: S301 (as above)
            ended = Ended(result=function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 (raised again by the driver, whatever it is)
            error.add_note("".join(traceback.format_exception(error)))
            ended = Ended(error=self._placed(error))
        self._news.put(ended)

    def _placed(self, error: BaseException) -> BaseException:
        """What the user is to mend, such as a file that is missing, says on which machine."""
        if type(error) is not UserError or self.machine() == self._driver:
            return error
        return UserError(f"{error} (on {self.machine()})")


def _pickled(ended: Ended) -> bytes:
    """An error that another process could not read is told as text."""
    try:
        content = pickle.dumps(ended)
        pickle.loads(content)  # noqa: S301 (our own)
    except Exception as error:  # noqa: BLE001 (whatever its pickling raises)
        found = ended.error or error
        return pickle.dumps(Ended(error=RuntimeError(f"{type(found).__name__}: {found}")))
    return content
