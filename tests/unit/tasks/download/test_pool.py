"""Workers tell how far they are, and neither their death nor a listener's trouble leaves anybody waiting."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from tasks.config import DatasetConfig
from tasks.download.pool import DownloadPool
from tasks.download.shard import NOTHING_AGAIN, Again
from tasks.rows.manifest import list_shards, make_manifest
from tasks.storage.root import Root
from tasks.workers.events import Event, ShardEvent
from tests.faults import CONFIG, JPEG

EVERYTHING = Again(everything=True)


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetConfig:
    """Forty pictures on disk, in shards of ten."""
    (tmp_path / "pictures").mkdir()
    for number in range(40):
        (tmp_path / f"pictures/{number}.jpg").write_bytes(JPEG)
    (tmp_path / "rows.tsv").write_text("".join(f"caption\t{number}.jpg\n" for number in range(40)))
    split = {"rows": str(tmp_path / "rows.tsv"), "images": str(tmp_path / "pictures")}
    found = DatasetConfig.model_validate({"name": "tiny", "splits": {"train": split}, "shard_size": 10})
    make_manifest(Root(str(tmp_path / "root")), found, "train")
    return found


def download(pool: DownloadPool, root: str, dataset: DatasetConfig, again: Again = NOTHING_AGAIN) -> list[Any]:
    return [pool.download(root, dataset, ref, again) for ref in list_shards(Root(root), dataset, "train")]


def within(seconds: float, work: Callable[[], None]) -> None:
    """Fail rather than wait for ever."""
    trouble: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (raised below)
            trouble.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    if trouble:
        raise trouble[0]


def test_every_shard_tells_its_beginning_and_its_end(tmp_path: Path, dataset: DatasetConfig) -> None:
    root, events = str(tmp_path / "root"), list[Event]()
    with DownloadPool(2, CONFIG, events.append) as pool:
        assert all(not future.result(60).skipped for future in download(pool, root, dataset))
    ends = [event for event in events if isinstance(event, ShardEvent) and event.kind == "ended"]
    assert sorted(event.ref.shard for event in ends) == [0, 1, 2, 3]
    assert all(event.ended == {"ok": 10} for event in ends)
    events.clear()
    with DownloadPool(2, CONFIG, events.append) as pool:
        assert all(future.result(60).skipped for future in download(pool, root, dataset))
    assert [event.kind for event in events if isinstance(event, ShardEvent)] == ["begun", "ended"] * 4


def test_listener_that_fails_does_not_hold_the_work_up_and_is_not_forgotten(
    tmp_path: Path, dataset: DatasetConfig
) -> None:
    root, results = str(tmp_path / "root"), list[Any]()

    def closed(event: Event) -> None:
        raise OSError(5, "the terminal is gone")

    def work() -> None:
        with pytest.raises(OSError, match="the terminal is gone"), DownloadPool(1, CONFIG, closed) as pool:
            for _ in range(30):  # more events than fit into a pipe that nobody reads
                results.extend(future.result(60) for future in download(pool, root, dataset))

    within(120, work)
    assert len(results) == 120


def test_worker_killed_at_any_moment_leaves_nobody_waiting(tmp_path: Path, dataset: DatasetConfig) -> None:
    root, begun = str(tmp_path / "root"), threading.Event()

    def work() -> None:
        with DownloadPool(2, CONFIG, lambda event: begun.set()) as pool:
            futures = [future for _ in range(50) for future in download(pool, root, dataset, EVERYTHING)]
            assert begun.wait(60)
            time.sleep(0.05)
            os.kill(next(iter(pool._workers._workers._processes)), signal.SIGKILL)
            assert any(isinstance(future.exception(60), BrokenProcessPool) for future in futures)

    within(120, work)
