"""Workers that extract shards, each with a detector and, if possible, a GPU of its own."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feature_extraction.config import ExtractorConfig
from tasks.errors import UserError
from tasks.extract.shard import extract_shard, finished_shard, load_on_device
from tasks.extractor import extractor_fingerprint
from tasks.records import ShardRef, ShardResult
from tasks.storage.root import Root
from tasks.workers.events import Event, ShardReporter, Tell, tell_warnings
from tasks.workers.machines import RayConfig
from tasks.workers.processes import Resources
from tasks.workers.reporting_pool import ReportingPool

if TYPE_CHECKING:
    from feature_extraction.detectors.interface import Detector

_MAX_DECODERS = 8
"""Threads that decode and resize pictures, per worker: some 50 to 100 pictures a second each."""


class ExtractorPool(ReportingPool):
    """Workers that extract shards: `with ExtractorPool(2, on_event) as pool: ...`.

    A worker of this machine takes the GPU of its number (modulo their count) and its share of the cores; one of a
    cluster has a GPU and cores of its own. Whichever is free takes the next shard.

    Args:
        max_workers: processes; one for each GPU is what a machine with GPUs wants.
        on_event: takes the workers' events, from a thread of the pool's own; see `ReportingPool`.
        ray: the cluster whose workers these are; None: processes of this machine.
        device: extractor.device, which says whether a worker of a cluster needs a GPU.

    Raises:
        UserError: as `ReportingPool`.
    """

    def __init__(
        self,
        max_workers: int,
        on_event: Callable[[Event], None],
        ray: RayConfig | None = None,
        device: str = "auto",
    ) -> None:
        num_gpus = 0 if ray is None else ray.gpus_on(device)
        super().__init__(max_workers, on_event, _start, ray=ray, num_gpus=num_gpus)

    def extract(self, root_uri: str, ref: ShardRef, config: ExtractorConfig) -> Future[ShardResult]:
        """Extract a shard in a worker; see `extract_shard`. A finished one needs no worker.

        Raises:
            UserError: as `finished_shard`; or the workers of a cluster cannot be had.
        """
        finished = finished_shard(Root(root_uri), ref, config)
        if finished is not None:
            self.tell_finished(ref, images_of(finished))
            future: Future[ShardResult] = Future()
            future.set_result(finished)
            return future
        self.check_shared("the root", root_uri)
        return self.submit(_work, root_uri, ref, config, extractor_fingerprint(config)[1])


def images_of(result: ShardResult) -> Counter[str]:
    """Images of a shard by outcome: ok or failed."""
    return Counter({name: result.receipt.counts.get(name, 0) for name in ("ok", "failed")})


@dataclass
class _Worker:
    """State of a worker process."""

    tell: Tell
    resources: Resources
    detector: tuple[ExtractorConfig, str, Detector] | None = None

    def extract(self, root: Root, ref: ShardRef, config: ExtractorConfig) -> ShardResult:
        reporter = ShardReporter(self.tell, ref)
        reporter(Counter())
        num_threads = min(self.resources.num_cores, _MAX_DECODERS)
        result = extract_shard(root, ref, config, load=self._load, num_threads=num_threads, on_progress=reporter)
        reporter.end()
        return result

    def _load(self, config: ExtractorConfig) -> Detector:
        """The detector of the last shard, reloaded if its config or files have changed."""
        extractor, _ = extractor_fingerprint(config)
        if self.detector is None or self.detector[:2] != (config, extractor):
            self.detector = None  # Two would not fit the GPU.
            resources = self.resources
            self.detector = (
                config,
                extractor,
                load_on_device(config, resources.local_rank, resources.num_local, resources.num_cores),
            )
        return self.detector[2]


_worker: _Worker | None = None
"""Set in worker processes only."""


def _start(tell: Tell, resources: Resources) -> None:
    global _worker
    tell_warnings(tell)
    _worker = _Worker(tell, resources)


def _work(root_uri: str, ref: ShardRef, config: ExtractorConfig, details: dict[str, Any]) -> ShardResult:
    """Extract a shard in a worker. `details` are the extractor's on the machine that submitted the work."""
    assert _worker is not None
    _check_same(details, extractor_fingerprint(config)[1])
    return _worker.extract(Root(root_uri), ref, config)


def _check_same(wanted: dict[str, Any], here: dict[str, Any]) -> None:
    """Raise UserError where this machine would make other features: they belong in a folder of their own."""
    different = [name for name in wanted | here if wanted.get(name) != here.get(name)]
    if different:
        found = ", ".join(f"{name}: {here.get(name)} instead of {wanted.get(name)}" for name in different)
        raise UserError(
            f"on {platform.node()} the extractor is another than on the machine that the command runs on ({found}); "
            "install the same packages on both, and put the same files there"
        )
