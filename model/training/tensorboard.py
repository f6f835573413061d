"""Scalars for TensorBoard, by tensorboardX. Imported by the process that writes them: it takes a while."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class EventFile:
    """A file of one process; TensorBoard joins those of a folder and forgets what lies after a later one's start.

    Written at once and by the caller's thread, unlike `SummaryWriter`, whose queue a killed process loses, and whose
    thread nobody tells of a full disk.
    """

    def __init__(self, folder: Path, first: int) -> None:
        """
        Args:
            first: step that the run goes on from; what an earlier process wrote about later ones is void.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # The writer's own name counts in seconds, and it would replace a file of the same second.
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns():020d}.{os.getpid()}")
        self._writer.flush()
        if first:
            self._write(Event(step=first + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Scalars of one step, each under its name."""
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=scalars)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
        self._writer.flush()
