"""Freed memory is used again: without it, the pages of every large buffer fault anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys, threading
from tasks.workers.memory import reuse_freed_memory

if not reuse_freed_memory():
    sys.exit("no glibc")

def work():
    for turn in range(40):
        held = [bytearray(b"x") * (1_000_000 * (1 + turn % 4)) for _ in range(3)]
        del held

threads = [threading.Thread(target=work) for _ in range(4)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_buffers_of_many_threads_do_not_fault_again() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[4], check=False)
    if "no glibc" in done.stderr:
        pytest.skip("this system's malloc has no such settings")
    assert done.returncode == 0, done.stderr
    # 480 buffers have 290,000 pages of 4 KiB; by default two thirds of them fault, with reuse about 8,000.
    assert int(done.stdout) < 60_000
