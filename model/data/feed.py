"""Split a global batch, and bring a process's parts to its device ahead of use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor

from model.data.order import Part
from model.data.store import LostShardError
from model.errors import InputError


class Countable(Protocol):
    """A movable batch that counts its targets for each loss, and the negatives not found."""

    @property
    def counts(self) -> Tensor: ...
    @property
    def missing(self) -> Tensor: ...
    def to(self, device: torch.device, non_blocking: bool = False) -> Self: ...
    def pin_memory(self) -> Self: ...
    def record_stream(self, stream: torch.Stream) -> None: ...


B = TypeVar("B", bound=Countable)


@dataclass(frozen=True)
class Split:
    """A global batch = processes x parts x part_size; exactly where it is counted in captions, nearly in tokens."""

    processes: int
    parts: int
    part_size: int
    unit: Literal["captions", "tokens"] = "captions"

    def of(self, rank: int) -> list[Part]:
        """The parts that one process works off, one after the other."""
        count = self.processes * self.parts
        return [Part(rank * self.parts + number, count) for number in range(self.parts)]

    def __str__(self) -> str:
        return f"{self.total} {self.unit} a step = {self.processes} processes x {self.parts} parts x {self.part_size}"

    @property
    def total(self) -> int:
        """Size of the global batch."""
        return self.processes * self.parts * self.part_size

    @property
    def limit(self) -> str:
        """The setting that makes parts smaller."""
        return "device_batch_size" if self.unit == "captions" else "token_batches.device_tokens"


def split_batch(batch_size: int, device_batch_size: int | None, processes: int) -> Split:
    """Split the batch equally among processes, each share in as few parts as fit.

    Raises:
        InputError: that does not come out even, or only with parts less than half as large as the device takes.
    """
    share, rest = divmod(batch_size, processes)
    if rest:
        down, up = batch_size - rest, batch_size - rest + processes
        counts = [count for count in range(1, processes) if batch_size % count == 0]
        raise InputError(
            f"batch_size {batch_size} cannot be shared equally by {processes} processes; set it to "
            f"{f'{down} or ' if down else ''}{up}, or start {' or '.join(map(str, counts))} processes"
        )
    most = min(device_batch_size or share, share)
    part_size = next(size for size in range(most, 0, -1) if share % size == 0)
    if 2 * part_size < most:
        down, up = share // most * most, -(-share // most) * most
        raise InputError(
            f"batch_size {batch_size} over {processes} processes is {share} each, which has no equal parts of nearly "
            f"device_batch_size {most}; set batch_size to {down * processes} or {up * processes}"
        )
    return Split(processes, share // part_size, part_size)


def split_tokens(tokens: int, buckets: int, device_tokens: int | None, processes: int) -> Split:
    """Split the buckets of a step equally among processes, each bucket in as few parts as fit.

    Raises:
        InputError: the buckets do not come out even.
    """
    share, rest = divmod(buckets, processes)
    if rest:
        down, up = buckets - rest, buckets - rest + processes
        raise InputError(
            f"token_batches.buckets={buckets} cannot be shared equally by {processes} processes; set it to "
            f"{f'{down} or ' if down else ''}{up}, or start another number of processes"
        )
    slices = -(-tokens // min(device_tokens or tokens, tokens))
    return Split(processes, share * slices, -(-tokens // slices), "tokens")


@dataclass(frozen=True)
class Step(Generic[B]):
    """A process's parts of one step, on its device.

    On the CPU, of its parts together: targets (K,) f32, how many each loss has, and missing, negatives not found.
    """

    parts: list[B]
    targets: Tensor
    missing: int
    copied: torch.cuda.Event | None

    def take(self) -> list[B]:
        """The parts, for use on the current stream from here on."""
        if self.copied is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(self.copied)
            for part in self.parts:
                part.record_stream(stream)
        return self.parts


def feed(
    make: Callable[[int, Part], B], parts: list[Part], device: torch.device, first: int, stop: int
) -> Iterator[Step[B]]:
    """Yield the steps first, ..., stop - 1, prepared ahead.

    A thread makes and copies each while the device works on the one before.

    A GPU's parts go through pinned memory on a stream of their own, beside the kernels of the step before.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def prepare(step: int) -> Step[B]:
        made = [make(step, part) for part in parts]
        targets = torch.stack([part.counts for part in made]).sum(0)
        missing = sum(int(part.missing) for part in made)
        if stream is None:
            return Step([part.to(device) for part in made], targets, missing, None)
        with torch.cuda.stream(stream):
            moved = [part.pin_memory().to(device, non_blocking=True) for part in made]
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(stream)
        return Step(moved, targets, missing, copied)

    return prefetch(prepare, first, stop)


T = TypeVar("T")


def prefetch(make: Callable[[int], T], first: int, stop: int, ahead: int = 2) -> Iterator[T]:
    """Yield make(first), ..., make(stop - 1), prepared ahead by one thread.

    Where making a batch found that a shard is bad and is to be left out, it is made again without that shard.

    Args:
        ahead: how many are kept ready.
    """

    def make_whole(step: int) -> T:
        while True:
            try:
                return make(step)
            except LostShardError:
                # Each shard is lost once, so this ends.
                continue

    pool = ThreadPoolExecutor(1, thread_name_prefix="loader")
    ready: deque[Future[T]] = deque()
    try:
        for step in range(first, stop):
            while step + len(ready) < min(stop, step + ahead + 1):
                ready.append(pool.submit(make_whole, step + len(ready)))
            yield ready.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
