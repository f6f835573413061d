"""kill -9 of a download at random moments: nothing fetched is asked for again, and the shards end the same.

Four kills, or twenty with `make soak`.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from feature_extraction.samples.images import read_image_shard
from tests.processes import with_environment

REPOSITORY = Path(__file__).parents[2]
ROWS, SHARD_ROWS = 600, 100
THREADS, WORKERS = 4, 2
LANES = 2  # Most of a killed command's life is its start-up, on one core: roots that are killed side by side.


def jpeg(number: int) -> bytes:
    """A picture of its own for every row; every seventh is large enough to be converted."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    side = 80 if number % 7 == 0 else 40
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(stream, "JPEG", quality=80)
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Counts requests per user agent and path. Every tenth URL is missing, every ninth unavailable at first."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        number = int(self.path.rpartition("/")[2])
        with self.server.lock:
            requests = self.server.requests[self.headers["User-Agent"]]
            requests[self.path] += 1
            count = requests[self.path]
        time.sleep(0.01)
        status, body = 200, jpeg(number)
        if number % 10 == 3:
            status, body = 404, b"no"
        elif number % 9 == 2 and count == 1:
            status, body = 503, b"wait"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Any]:
    running: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    running.handle_error = lambda *_: None
    running.lock, running.requests = threading.Lock(), defaultdict(Counter)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def start(rows: Path, root: Path, *more: str) -> subprocess.Popen[str]:
    settings = {
        "threads": THREADS,
        "allow_private_addresses": "true",
        "short_side": 64,
        "backoff_seconds": 0.01,
        "user_agent": root.name,
    }
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = [
        sys.executable,
        "-m",
        "flows",
        "download",
        "--rows",
        str(rows),
        "--root",
        str(root),
        "--name",
        "web/train",
    ]
    return subprocess.Popen(
        [*command, "--shard-size", str(SHARD_ROWS), "--workers", str(WORKERS), *options, *more],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "KILLED_ROOT": str(root)},  # by which its workers are known
    )


def finish(rows: Path, root: Path, *more: str) -> str:
    process = start(rows, root, *more)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def digests(root: Path, pattern: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob(pattern))}


def check_no_torn_file(root: Path) -> None:
    """Whatever stands under a final name can be read to its end."""
    for path in root.rglob("*.tar"):
        with path.open("rb") as stream:
            assert sum(1 for _ in read_image_shard(stream, path.name)) > 0
    for path in root.rglob("*.parquet"):
        pq.read_table(path)


def wait_until_gone(root: Path) -> None:
    """Until no process works on the root: the killed command's workers end with it."""
    until = time.monotonic() + 30
    while with_environment(KILLED_ROOT=str(root)):
        assert time.monotonic() < until, "a worker outlived the killed command"
        time.sleep(0.02)


def total(server: Any, root: Path) -> int:
    with server.lock:
        return server.requests[root.name].total()


def kill_often(server: Any, rows: Path, root: Path, kills: int) -> None:
    """Kill the command so often, then let it finish."""
    chance = random.Random(root.name)
    for kill in range(kills):
        before = total(server, root)
        process = start(rows, root)
        # Most die while requests are made; every fifth at any moment, so that reading rows and publishing are met.
        wanted = before + chance.randint(1, 45) if kill % 5 else 10**9
        until = time.monotonic() + (60 if kill % 5 else chance.uniform(0.1, 3.0))
        while total(server, root) < wanted and time.monotonic() < until and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        wait_until_gone(root)
        check_no_torn_file(root)
    assert list(root.rglob("*.journal")), "the last kill found nothing under way: too few rows for so many kills"
    finish(rows, root)


@pytest.mark.skipif(sys.platform != "linux", reason="what outlives its parent is killed by Linux alone")
@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.soak)])
def test_kills_end_in_the_same_shards_without_fetching_anything_again(server: Any, tmp_path: Path, kills: int) -> None:
    rows, whole = tmp_path / "rows.tsv", tmp_path / "whole"
    address = f"http://127.0.0.1:{server.server_port}"
    rows.write_text("".join(f"caption {number}\t{address}/{number}\n" for number in range(ROWS)))
    finish(rows, whole)
    undisturbed = server.requests[whole.name]

    roots = [tmp_path / f"killed-{lane}" for lane in range(LANES)]
    with ThreadPoolExecutor(LANES) as lanes:
        list(lanes.map(lambda root: kill_often(server, rows, root, kills), roots))
    for root in roots:
        for pattern in ("*.tar", "manifest.parquet", "captions.parquet"):
            assert digests(root, pattern) == digests(whole, pattern)
        assert len(list(root.rglob("*.tar"))) == ROWS // SHARD_ROWS
        assert not list(root.rglob("*.journal")) and not list(root.rglob("*.part"))
        # A kill costs at most the requests in flight; whatever had been answered and kept is not asked for again.
        extra = {path: count - undisturbed[path] for path, count in server.requests[root.name].items()}
        assert set(extra) == set(undisturbed)
        assert sum(extra.values()) <= kills * THREADS * WORKERS

        # And once it is done, it is done.
        asked = total(server, root)
        finish(rows, root)
        assert total(server, root) == asked
