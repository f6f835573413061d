"""Joining a Ray cluster, and room for workers on it. Imported only where one is asked for: it imports ray."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, OutOfMemoryError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tasks.errors import UserError
from tasks.workers.machines import RayConfig
from tasks.workers.processes import Seat
from tasks.workers.ray_actor import ShardActor

_LOCAL = "local"
_OBJECT_STORE_BYTES = 80_000_000
"""Of a cluster of this machine alone: next to nothing goes through it, and Ray asks for at least this much."""
_ANSWER_SECONDS = 10.0
_SIGACTION_BYTES = 1024
"""More than any libc's struct sigaction has."""


class RayCluster:
    """Room on a cluster for so many workers, one process each, spread over its machines.

    Everything belongs to this process's job: when it ends, however it ends, Ray kills the workers and frees the room.
    """

    def __init__(self, max_workers: int, config: RayConfig, num_gpus: float, wait_on: Callable[[], bool]) -> None:
        """Join the cluster, unless this process has joined one already, and wait for the room.

        Args:
            max_workers: so many.
            config: the cluster, and how long to wait.
            num_gpus: share of a GPU for each.
            wait_on: asked every second whether to go on waiting.

        Raises:
            UserError: the cluster cannot be joined, or has no room.
        """
        self.config = config
        self._num_gpus = num_gpus
        # Linux ties the life of a cluster of this machine to the thread that made it, and callers are often threads
        # that end.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ray-cluster")
        self._joined_here = not ray.is_initialized()
        if self._joined_here:
            self._thread.submit(_join, config.address, max_workers, config.cpus_each).result()
        try:
            self._room = self._take_room(max_workers, wait_on)
        except BaseException:
            self._part()
            raise

    def leave(self) -> None:
        """Give the room back; a cluster of this machine alone ends."""
        if ray.is_initialized():
            remove_placement_group(self._room)
        self._part()

    def _part(self) -> None:
        if self._joined_here:
            self._thread.submit(_leave).result()
        self._thread.shutdown()

    def new_worker(self, number: int, start: bytes) -> RayWorker:
        """Have a worker's process begun, in one of the rooms. It may take a while."""
        seat = Seat(0, 1, self.config.cpus_each)
        actor = (
            ray.remote(ShardActor)
            .options(
                num_cpus=self.config.cpus_each,
                num_gpus=self._num_gpus,
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self._room, placement_group_bundle_index=number, placement_group_capture_child_tasks=False
                ),
            )
            .remote(start, platform.node(), str(Path.cwd()), self._num_gpus > 0, seat)
        )
        return RayWorker(actor)

    def check_shared(self, what: str, uri: str) -> None:
        """Raise UserError where a path is a local one, and not all machines share it."""
        protocol, separator, _ = uri.partition("://")
        if (separator and protocol not in ("file", "local")) or self.config.shared_disk:
            return
        machines = len(_machines())
        if machines > 1 or self.config.address.startswith("ray://"):
            raise UserError(
                f"{what} is on a disk of this machine ({uri}), and the Ray cluster has {machines} machines, each of "
                "which would look on its own; give s3://BUCKET/FOLDER, or, where the disk is shared under the same "
                "path (NFS), set ray.shared_disk"
            )

    def _take_room(self, max_workers: int, wait_on: Callable[[], bool]) -> PlacementGroup:
        each = {"CPU": float(self.config.cpus_each)} | ({"GPU": self._num_gpus} if self._num_gpus else {})
        room = placement_group([each] * max_workers, strategy="SPREAD")
        deadline = time.monotonic() + self.config.wait_seconds
        while True:
            if room.wait(1):  # It counts in whole seconds, and nothing interrupts it.
                return room
            if time.monotonic() >= deadline or not wait_on():
                break
        remove_placement_group(room)
        has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        machines = len(_machines())
        gpus = "" if has.get("GPU") or not self._num_gpus else "; a cluster without GPUs needs extractor.device=cpu"
        raise UserError(
            f"the Ray cluster has no room for {max_workers} workers of {_amount(each)} each: it has {_amount(has)} on "
            f"{machines} {'machine' if machines == 1 else 'machines'}, of which {_amount(free)} are free; give fewer "
            f"workers, less to each (ray.cpus_each, ray.gpus_each), or a longer ray.wait_seconds{gpus}"
        )


class RayWorker:
    """A worker's process, from here."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self.machine = "a machine of the cluster"
        """Its name, once it is known."""

    def ask(self, method: str, *arguments: Any) -> Callable[[float], Any]:
        """Call a method of the `ShardActor`.

        Returns:
            What waits for the answer, so many seconds at most, and gives it. It raises TimeoutError if there is none
            yet; and WorkerDiedError if the process is dead, or cannot be reached.

        Raises:
            WorkerDiedError: likewise.
        """
        try:
            return partial(_wait, getattr(self._actor, method).remote(*arguments))
        except RayError as error:
            raise WorkerDiedError(_reason(error)) from error

    def kill(self) -> None:
        if ray.is_initialized():
            ray.kill(self._actor, no_restart=True)


class WorkerDiedError(Exception):
    """A worker's process has ended, or nobody knows; the message says why, as far as Ray can tell."""


def _wait(answer: Any, seconds: float) -> Any:
    try:
        return ray.get(answer, timeout=seconds)
    except GetTimeoutError:
        raise
    except RayError as error:
        raise WorkerDiedError(_reason(error)) from error


def _join(address: str, max_workers: int, cpus_each: int) -> None:
    """Raise UserError where that cannot be."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == _LOCAL:
        # Its cores are counted by nobody else, so they are no reason to refuse.
        cores = max(os.cpu_count() or 1, max_workers * cpus_each)
        options |= {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        if address != _LOCAL:
            _check_answers(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
        with _sigterm_kept():
            ray.init(address, **options)
    except Exception as error:  # Ray's are of many kinds, plain ones among them.
        raise UserError(
            f"the Ray cluster {address!r} cannot be joined ({_first_line(error)}); have this machine join it with "
            "`ray start --address=HEAD:6379`, or give --ray local for one of this machine alone"
        ) from error


def _leave() -> None:
    with _sigterm_kept():
        ray.shutdown()


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Have SIGTERM end this process as before.

    Ray catches it below Python, to abort, and leaves it without a handler in the end; `signal.signal` could put that
    right from the main thread only.
    """
    libc, before = ctypes.CDLL(None), ctypes.create_string_buffer(_SIGACTION_BYTES)
    libc.sigaction(signal.SIGTERM, None, before)
    try:
        yield
    finally:
        libc.sigaction(signal.SIGTERM, before, None)


def _check_answers(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?([^/]+):(\d+)", address)
    if found:
        socket.create_connection((found[1].strip("[]"), int(found[2])), _ANSWER_SECONDS).close()


def _machines() -> list[str]:
    """Their names, of those that are alive."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [str(node["NodeManagerHostname"]) for node in nodes if node["Alive"]]


def _amount(resources: dict[str, float]) -> str:
    """`4 GPUs and 16 CPUs`."""
    amounts = {kind: resources.get(kind, 0.0) for kind in ("GPU", "CPU")}
    return " and ".join(f"{amount:g} {kind}{'' if amount == 1 else 's'}" for kind, amount in amounts.items())


def _reason(error: RayError) -> str:
    """What Ray's paragraphs say of a death."""
    text = " ".join(str(error).split())
    if isinstance(error, OutOfMemoryError) or "running low on memory" in text:
        return "Ray killed it because its machine ran short of memory"
    if "node has died" in text:
        return "its machine is gone"
    if isinstance(error, ActorUnavailableError):
        return "it cannot be reached"
    if isinstance(error, ActorDiedError) and error.actor_init_failed:
        return str(error).strip().splitlines()[-1]
    if "worker process has died" in text:
        return "its process was killed"
    return text[:300]


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
