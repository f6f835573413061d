"""kill -9 of a download at twenty random moments: nothing fetched is asked for again, and the shards end the same."""

from __future__ import annotations

import hashlib
import io
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from feature_extraction.samples import read_image_shard

REPOSITORY = Path(__file__).parents[2]
ROWS, SHARD_ROWS = 900, 150
KILLS, THREADS, WORKERS = 20, 4, 2


def jpeg(number: int) -> bytes:
    """A picture of its own for every row; every seventh is large enough to be converted."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    side = 80 if number % 7 == 0 else 40
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(stream, "JPEG", quality=80)
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Counts requests per path. Every tenth URL is missing, and every ninth is unavailable at first."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        number = int(self.path.rpartition("/")[2])
        with self.server.lock:
            self.server.requests[self.path] += 1
            count = self.server.requests[self.path]
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
    running.lock, running.requests = threading.Lock(), Counter()
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def start(rows: Path, root: Path, *more: str) -> subprocess.Popen[str]:
    settings = {"threads": THREADS, "allow_private_addresses": "true", "short_side": 64, "backoff_seconds": 0.01}
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
    """Until no process names the root: the killed command's workers end with it."""
    until = time.monotonic() + 30
    while any(str(root) in _command_line(entry) for entry in Path("/proc").glob("[0-9]*/cmdline")):
        assert time.monotonic() < until, "a worker outlived the killed command"
        time.sleep(0.02)


def _command_line(entry: Path) -> str:
    try:
        return entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""  # it ended meanwhile


def total(server: Any) -> int:
    with server.lock:
        return server.requests.total()


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for survivors in /proc")
def test_twenty_kills_end_in_the_same_shards_without_fetching_anything_again(server: Any, tmp_path: Path) -> None:
    rows = tmp_path / "rows.tsv"
    address = f"http://127.0.0.1:{server.server_port}"
    rows.write_text("".join(f"caption {number}\t{address}/{number}\n" for number in range(ROWS)))
    finish(rows, tmp_path / "whole")
    undisturbed = dict(server.requests)
    server.requests.clear()

    killed = tmp_path / "killed"
    chance = random.Random(7)
    for kill in range(KILLS):
        before = total(server)
        process = start(rows, killed)
        # Most die while requests are made; every fifth at any moment, so that reading rows and publishing are met.
        wanted = before + chance.randint(1, 35) if kill % 5 else 10**9
        until = time.monotonic() + (60 if kill % 5 else chance.uniform(0.1, 3.0))
        while total(server) < wanted and time.monotonic() < until and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        wait_until_gone(killed)
        check_no_torn_file(killed)
    journals = list(killed.rglob("*.journal"))
    assert journals, "the last kill found nothing under way: the test has too few rows for its kills"
    finish(rows, killed)

    assert digests(killed, "*.tar") == digests(tmp_path / "whole", "*.tar")
    assert digests(killed, "manifest.parquet") == digests(tmp_path / "whole", "manifest.parquet")
    assert digests(killed, "captions.parquet") == digests(tmp_path / "whole", "captions.parquet")
    assert len(list(killed.rglob("*.tar"))) == ROWS // SHARD_ROWS
    assert not list(killed.rglob("*.journal")) and not list(killed.rglob("*.part"))
    # A kill costs at most the requests in flight; whatever had been answered and kept is not asked for again.
    extra = {path: count - undisturbed[path] for path, count in server.requests.items()}
    assert set(extra) == set(undisturbed)
    assert sum(extra.values()) <= KILLS * THREADS * WORKERS
    assert max(extra.values()) <= KILLS

    # And once it is done, it is done.
    server.requests.clear()
    finish(rows, killed)
    assert total(server) == 0
