"""A run's own records: RUN/metrics.jsonl, TensorBoard's files beside it, and progress for the parent."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from model.data.feed import Split
from model.errors import TrainingError
from model.progress import DROPPED, STALLED, Progress, report
from model.publish import disk_room

_RATES = {"captions": "samples_per_second", "tokens": "tokens_per_second"}
_NOT_TOLD = {"learning_rate", "gradient_norm", "steps_per_second", *_RATES.values(), "peak_memory_gib", DROPPED}
_REPORT_SECONDS = 2.0


class Journal:
    """The log of one process of a run from its step `first` on; only rank 0 has one."""

    def __init__(self, stage: str, run: Path, first: int, total: int) -> None:
        self._stage, self._first, self._total = stage, first, total
        self._path = run / "metrics.jsonl"
        _drop_rows_after(self._path, first)
        # Only here: its library costs a process a fifth of a second.
        from model.training.tensorboard import EventFile

        self._events = EventFile(run / "tensorboard", first)
        self._begun = time.monotonic()
        self._reported = self._begun
        self._newest: dict[str, float] = {}

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write a line of metrics.jsonl and the same values for TensorBoard, six digits each.

        Raises:
            TrainingError: they cannot be written, for instance on a full disk.
        """
        row = {name: float(f"{value:.6g}") for name, value in values.items()}
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": step, **row}) + "\n")
            self._events.write(step, row)
        except OSError as error:
            raise TrainingError(
                f"{self._path}: the metrics of step {step} cannot be written ({error.strerror}; "
                f"{disk_room(self._path)}); make room there and start again: the run goes on from its last checkpoint"
            ) from error
        self._newest |= row

    def progress(self, step: int) -> None:
        """Report to the parent, at most every two seconds."""
        now = time.monotonic()
        if now - self._reported < _REPORT_SECONDS and step < self._total:
            return
        self._reported = now
        rate = (step - self._first) / max(now - self._begun, 1e-9)
        told = {name: value for name, value in self._newest.items() if _is_told(name, value)}
        report(Progress(stage=self._stage, done=step, total=self._total, unit="steps", per_second=rate, metrics=told))


def _is_told(name: str, value: float) -> bool:
    """Whether a person who watches wants it: losses, accuracies, and faults. The rest is in the files."""
    return name not in _NOT_TOLD and (value > 0 or not name.startswith(("skipped", STALLED)))


class Pace:
    """Speed of an interval of steps, and the time spent waiting for data."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._begun = time.monotonic()
        self._waited = 0.0
        self._steps = 0
        self._worked: torch.cuda.Event | None = None

    def step_begins(self, asked: float) -> None:
        """Record that the batch asked for at this `time.monotonic()` is here.

        The time is counted as waiting only if the device had finished the step before by then: a host that runs ahead
        of its GPU waits for batches that the GPU does not need yet.
        """
        if self._worked is None or self._worked.query():  # type: ignore[no-untyped-call]
            self._waited += time.monotonic() - asked
        self._steps += 1

    def step_ends(self) -> None:
        """Record that all the step's work is with the device."""
        if self._device.type == "cuda":
            self._worked = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._worked.record()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out of the rates what happens meanwhile."""
        begun = time.monotonic()
        yield
        self._begun += time.monotonic() - begun

    def take(self, split: Split) -> dict[str, float]:
        """Rates since the last call, and the peak of this process's memory in GiB."""
        now = time.monotonic()
        seconds = max(now - self._begun, 1e-9)
        values = {
            "steps_per_second": self._steps / seconds,
            _RATES[split.unit]: self._steps * split.total / seconds,
            "wait_share": min(self._waited / seconds, 1.0),
            "peak_memory_gib": _peak_bytes(self._device) / 2**30,
        }
        self._begun, self._waited, self._steps = now, 0.0, 0
        return values


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _drop_rows_after(path: Path, step: int) -> None:
    """Remove the lines of steps that a killed run made after its last checkpoint: they are made again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a killed process may be cut
        if row["step"] <= step:
            kept.append(line)
    part = path.with_name(path.name + ".part")
    part.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    os.replace(part, path)  # noqa: PTH105
