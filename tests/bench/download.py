"""CPU time per image of the downloader, from a server on this machine whose own time does not count.

There is no peer in this bench: the figures are absolute, and comparable on one machine only.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from tasks.config import DatasetConfig, DownloadConfig
from tasks.download import download_shard
from tasks.manifest import make_manifest
from tasks.records import ShardRef
from tasks.storage import Root

IMAGES, DIFFERENT = 256, 16
SIZES = {"kept as received": (640, 480), "shrunk to short side 512": (1024, 768)}


def run() -> Iterator[str]:
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as folder, _served(Path(folder)) as port:
            for number in range(DIFFERENT):
                Path(folder, f"{number}.jpg").write_bytes(_jpeg(size, number))
            milliseconds = _download(Path(folder), port)
        yield (
            f"{milliseconds:.2f} CPU-ms per image, {size[0]} x {size[1]} {name}, local server "
            "(no peer: not a ratio, compare on one machine only)"
        )


def _download(folder: Path, port: int) -> float:
    """CPU-ms per image of a shard's download, the manifest not counted."""
    rows = [f"a picture\thttp://127.0.0.1:{port}/{number % DIFFERENT}.jpg?{number}" for number in range(IMAGES)]
    Path(folder, "rows.tsv").write_text("\n".join(rows) + "\n")
    dataset = DatasetConfig(name="bench", splits={"train": str(folder / "rows.tsv")}, shard_size=IMAGES)
    root = Root(str(folder / "root"))
    make_manifest(root, dataset, "train")
    ref = ShardRef(dataset="bench", split="train", shard=0)
    begun = time.process_time()
    result = download_shard(root, dataset, ref, DownloadConfig(allow_private_addresses=True))
    cost = time.process_time() - begun
    assert result.receipt.counts == {"ok": IMAGES}
    return 1000 * cost / IMAGES


def _jpeg(size: tuple[int, int], seed: int) -> bytes:
    """A picture about as hard to code as a photograph: smooth shapes with fine grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).filter(ImageFilter.BoxBlur(1))
    stream = io.BytesIO()
    Image.blend(coarse, grain, 0.15).save(stream, "JPEG", quality=90)
    return stream.getvalue()


@contextmanager
def _served(folder: Path) -> Iterator[int]:
    """The port of a web server over a folder, a process of its own that keeps connections alive."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--protocol", "HTTP/1.1"]
    with subprocess.Popen(
        [*command, "--directory", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = re.search(r"port (\d+)", process.stdout.readline())
            assert port
            yield int(port[1])
        finally:
            process.terminate()
