"""The pictures of the download bench, JPEGs of the sizes that web photographs have, and a server for them."""

from __future__ import annotations

import io
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

PHOTOS = Path(__file__).parents[3] / "shared/data/coco/images"
SIZES = 7 * [(640, 480)] + 2 * [(1024, 768)] + [(1600, 1200)]
DIFFERENT = 100
MEAN_BYTES = 113_000


def write_photos(folder: Path) -> str:
    """Write 0.jpg to 99.jpg: 70 of 640 x 480, 20 of 1024 x 768, 10 of 1600 x 1200, of 113 kB on average.

    Returns:
        What they are made of.
    """
    sources = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))[:DIFFERENT]]
    made_of = "photographs" if sources else "synthetic pictures"
    sources = sources or [_synthetic(seed) for seed in range(DIFFERENT)]
    sizes = DIFFERENT // len(SIZES) * SIZES
    pictures = [ImageOps.fit(sources[n % len(sources)], size) for n, size in enumerate(sizes)]
    # Every seventh: as mixed as all of them, and so the quality is found in a second.
    probe = pictures[::7]
    quality = min(range(40, 96, 2), key=lambda q: abs(sum(len(_jpeg(p, q)) for p in probe) / len(probe) - MEAN_BYTES))
    for number, picture in enumerate(pictures):
        (folder / f"{number}.jpg").write_bytes(_jpeg(picture, quality))
    return made_of


def _synthetic(seed: int) -> Image.Image:
    """About as hard to code as a photograph: smooth shapes with fine grain."""
    rng = np.random.default_rng(seed)
    size = (640, 480)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).filter(ImageFilter.BoxBlur(1))
    return Image.blend(coarse, grain, 0.15)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


@contextmanager
def served(folder: Path, tls: Path | None = None) -> Iterator[str]:
    """Serve a folder's JPEGs from a process of its own, which keeps connections alive; yields the URL of its root.

    Args:
        folder: holds the pictures.
        tls: PEM file of a key and its certificates; None for plain http.
    """
    command = [sys.executable, "-m", "tests.bench.photos", str(folder), *([str(tls)] if tls else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert re.fullmatch(r"https?://127\.0\.0\.1:\d+", url), "the server did not start"
            yield url
        finally:
            process.terminate()


class _Server(ThreadingHTTPServer):
    request_queue_size = 256  # A peer that opens a connection for every URL is not to wait for the kernel's queue.


def _serve(folder: Path, tls: Path | None) -> None:
    pictures = {f"/{path.name}": path.read_bytes() for path in folder.glob("*.jpg")}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # One packet for the headers.

        def do_GET(self) -> None:
            body = pictures[self.path.partition("?")[0]]
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = _Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        # The handshake is left to the connection's thread, else one waits for the other.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
