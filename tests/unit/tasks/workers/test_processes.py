"""Worker processes end with an interrupt, also where threads of this process wait for them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from tasks.workers.processes import WorkerPool, killing_workers


def test_an_interrupt_ends_the_workers_that_threads_wait_for() -> None:
    begun = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        WorkerPool(1) as pool,
        ThreadPoolExecutor(1) as waiting,
        killing_workers(),
    ):
        assert pool.submit(int, "1").result() == 1, "the worker is there"
        sleeping = pool.submit(time.sleep, 120)
        waiter = waiting.submit(sleeping.result)
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 60
    with pytest.raises(BrokenProcessPool):
        waiter.result()


def test_an_error_leaves_them_to_finish() -> None:
    with pytest.raises(ValueError, match="broken shard"), WorkerPool(1) as pool, killing_workers():
        slow = pool.submit(pow, 2, 5)
        raise ValueError("broken shard")
    assert slow.cancelled() or slow.result() == 32
