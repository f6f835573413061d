"""What Prefect costs a shard: the mapped task that download and extraction use, with nothing to do.

Against a server as deployed runs have it. It shares the cores, so wall time is what a user waits; the plain loop is
the same without Prefect. Fewer shards than 3,000: SHARDS=500.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from flows.steps.shards import collect_shards
from tasks.records import Receipt, ShardRef, ShardResult, Stage
from tests.bench.clock import cpu_seconds
from tests.operating import Site

_WORKERS = 8
_BOUND_MS = 15

log = logging.getLogger("flows.bench")


def run() -> Iterator[str]:
    refs = [ShardRef(dataset="web", split="train", shard=shard) for shard in range(int(os.environ.get("SHARDS", 3000)))]
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        try:
            site.wait_for_server()
            os.environ.update({name: site.environment[name] for name in ("PREFECT_HOME", "PREFECT_API_URL")})
            os.environ["PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL"] = "CRITICAL"  # As prefect.yaml has it.
            wall, cpu, told = _flow_seconds(refs)
        finally:
            site.end()
    begun = time.monotonic()
    _collect_plainly(refs)
    plain = time.monotonic() - begun
    yield (
        f"{len(refs):,} shards: {1000 * wall / len(refs):.1f} ms a shard on {_WORKERS} threads (bound {_BOUND_MS}), of "
        f"it {1000 * cpu / len(refs):.1f} ms CPU of this process; without Prefect {1000 * plain / len(refs):.2f} ms; "
        f"the server knew all {told:.0f} s later"
    )


def _flow_seconds(refs: list[ShardRef]) -> tuple[float, float, float]:
    """Wall and CPU seconds of all the tasks, the flow run's own beginning left out; and until all events were sent."""
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.events.worker import EventsWorker

    from flows.steps.shard_tasks import run_shards

    @task(name="shard", task_run_name="{ref}", cache_policy=NO_CACHE)
    def nothing(ref: ShardRef) -> ShardResult:
        return _result(ref)

    @flow(name="bench")
    def mapped() -> tuple[float, float]:
        begun, cpu_begun = time.monotonic(), cpu_seconds()
        run_shards(nothing, refs, {}, _WORKERS, log)
        return time.monotonic() - begun, cpu_seconds() - cpu_begun

    wall, cpu = mapped()
    begun = time.monotonic()
    EventsWorker.drain_all(at_exit=False)
    return wall, cpu, time.monotonic() - begun


def _collect_plainly(refs: list[ShardRef]) -> None:
    with ThreadPoolExecutor(_WORKERS) as pool:
        futures = {pool.submit(_result, ref): ref for ref in refs}
        collect_shards(refs, ((futures[future], future.result()) for future in as_completed(futures)), log)


def _result(ref: ShardRef) -> ShardResult:
    receipt = Receipt(
        stage=Stage.DOWNLOAD,
        dataset=ref.dataset,
        split=ref.split,
        shard=ref.shard,
        fingerprint="f",
        counts={"ok": 1},
        files={},
        seconds=0.0,
        created_at="2026-01-01T00:00:00+00:00",
    )
    return ShardResult(receipt=receipt, skipped=False)
