"""The downloader against img2dataset: whole command lines on one local server, in turn, CPU time net of start-up.

Both run two processes of 16 threads. A run on two URLs, one a process, is what starting costs; it is subtracted.
The server is a process of its own whose time counts for neither. Our fetcher against requests has its own figures.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import trustme
from requests.adapters import HTTPAdapter

from tasks.download.config import DownloadConfig
from tasks.download.web.fetch import Fetcher
from tests.bench import img2dataset
from tests.bench.clock import CommandCost, cpu_cost, run_command
from tests.bench.photos import DIFFERENT, served, write_photos

ROUNDS, WORKERS, THREADS = 3, 2, 16
FETCHES = 600
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mode:
    """What is done with a picture, in the words of both programs."""

    name: str
    short_side: str
    resize: list[str]
    images: int


SHRINK = Mode(
    "short side 512, smaller ones kept",
    "512",
    ["--resize_mode=keep_ratio", "--image_size=512", "--resize_only_if_bigger=True"],
    images=1800,
)
KEEP = Mode("originals kept and checked", "none", ["--resize_mode=no"], images=1200)


@dataclass(frozen=True)
class Program:
    """One of the two: `run(url, images, mode)` downloads so many pictures from a server."""

    name: str
    run: Callable[[str, int, Mode], CommandCost]


def run() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = folder / "photos"
        photos.mkdir()
        made_of = write_photos(photos)
        ours = Program("ours", lambda *task: _run_ours(folder, *task))
        programs = [ours]
        try:
            executable = img2dataset.find()
            programs.append(Program("img2dataset", lambda *task: _run_peer(folder, executable, *task)))
        except img2dataset.NoPeer as reason:
            yield f"ratios to img2dataset skipped: {reason}"
        with served(photos) as http:
            yield from _compare(programs, http, made_of)
            authority = trustme.CA()
            key, trusted = folder / "server.pem", folder / "authority.pem"
            authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(key))
            authority.cert_pem.write_to_path(str(trusted))
            with served(photos, key) as https, _trusting(trusted):
                yield from _compare_fetchers({"http": http, "https": https}, str(trusted))


def _compare(programs: list[Program], url: str, made_of: str) -> Iterator[str]:
    """Start-up, CPU an image of both modes, and memory; each a figure of ours and its ratio to the other's."""
    names = [program.name for program in programs]
    starts: dict[str, list[CommandCost]] = {name: [] for name in names}
    runs: dict[str, dict[str, list[CommandCost]]] = {mode.name: {name: [] for name in names} for mode in (SHRINK, KEEP)}
    for _ in range(ROUNDS):
        for mode in (SHRINK, KEEP):
            for program in programs:
                runs[mode.name][program.name].append(program.run(url, mode.images, mode))
        for program in programs:
            starts[program.name].append(program.run(url, WORKERS, KEEP))
    start = {name: min(cost.cpu_seconds for cost in starts[name]) for name in names}
    yield _figure(
        "start-up, wall", {name: min(cost.wall_seconds for cost in starts[name]) for name in names}, "{:.1f} s"
    )
    yield _figure("start-up, CPU, two workers", start, "{:.1f} s")
    for mode in (SHRINK, KEEP):
        net = {name: min(cost.cpu_seconds for cost in runs[mode.name][name]) - start[name] for name in names}
        each = {name: 1000 * seconds / (mode.images - WORKERS) for name, seconds in net.items()}
        yield _figure(f"CPU an image of 113 kB ({made_of}), {mode.name}", each, "{:.2f} ms")
    peaks = {name: max(cost.peak_pss for mode in runs.values() for cost in mode[name]) / 1e6 for name in names}
    yield _figure("peak memory of all processes (PSS)", peaks, "{:.0f} MB")


def _figure(what: str, values: dict[str, float], form: str) -> str:
    ours = values["ours"]
    line = f"{what}: {form.format(ours)}"
    if "img2dataset" in values:
        theirs = values["img2dataset"]
        line += f", 1/{theirs / ours:.2f} of img2dataset's {form.format(theirs)}"
    return line


def _run_ours(folder: Path, url: str, images: int, mode: Mode) -> CommandCost:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        rows, root = Path(name, "rows.tsv"), Path(name, "root")
        rows.write_text("".join(f"a picture\t{address}\n" for address in _addresses(url, images)))
        settings = {
            "short_side": mode.short_side,
            "threads": THREADS,
            "per_host": 2 * THREADS,
            "allow_private_addresses": "true",
        }
        command = [sys.executable, "-m", "flows", "download", "--rows", str(rows), "--root", str(root)]
        command += ["--workers", str(WORKERS), "--shard-size", str(images // WORKERS)]
        command += [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        cost = run_command(command, Path(name, "log"), _environment(), REPOSITORY)
        receipts = [json.loads(path.read_text()) for path in root.glob("datasets/*/*/images/images-*.json")]
        _expect(images, sum(receipt["counts"]["ok"] for receipt in receipts), "ours")
        return cost


def _run_peer(folder: Path, executable: str, url: str, images: int, mode: Mode) -> CommandCost:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        rows, made = Path(name, "rows.tsv"), Path(name, "made")
        rows.write_text("url\tcaption\n" + "".join(f"{address}\ta picture\n" for address in _addresses(url, images)))
        command = img2dataset.command(executable, rows, made, mode.resize, images // WORKERS, THREADS)
        cost = run_command(command, Path(name, "log"), _environment(), Path(name))
        _expect(images, img2dataset.successes(made), "img2dataset")
        return cost


def _addresses(url: str, images: int) -> Iterator[str]:
    return (f"{url}/{number % DIFFERENT}.jpg?{number}" for number in range(images))


def _environment() -> dict[str, str]:
    # A library of img2dataset's asks the network for a newer version of itself while it is imported.
    return os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}


def _expect(images: int, found: int, program: str) -> None:
    if found != images:
        raise RuntimeError(f"{program} got {found} of {images} pictures from the local server: no fair comparison")


# --- fetching alone -------------------------------------------------------------------------------------------------


def _compare_fetchers(servers: dict[str, str], trusted: str) -> Iterator[str]:
    """CPU a fetch of our Fetcher, over http and https, against one requests.Session for all threads."""
    ours, theirs = {}, {}
    for scheme, url in servers.items():
        ours[scheme] = _fetch_cost(url, _our_fetch)
        theirs[scheme] = _fetch_cost(url, lambda work: _requests_fetch(work, trusted))
        yield (
            f"CPU a fetch, {scheme}, kept alive: {ours[scheme]:.2f} ms, 1/{theirs[scheme] / ours[scheme]:.2f} of "
            f"requests.Session's {theirs[scheme]:.2f} ms"
        )
    yield f"CPU a fetch over https: {ours['https'] / ours['http']:.2f} x http"


Get = Callable[[str], bytes]


def _fetch_cost(url: str, fetch: Callable[[Callable[[Get], None]], None]) -> float:
    addresses = list(_addresses(url, FETCHES))

    def work(get: Get) -> None:
        with ThreadPoolExecutor(2 * THREADS) as pool:
            assert sum(len(body) > 1000 for body in pool.map(get, addresses)) == FETCHES

    return 1000 * cpu_cost(lambda: fetch(work), ROUNDS) / FETCHES


def _our_fetch(work: Callable[[Get], None]) -> None:
    fetcher = Fetcher(DownloadConfig(allow_private_addresses=True, threads=2 * THREADS, per_host=2 * THREADS))
    work(lambda url: fetcher.attempt(url, 30).body)
    fetcher.close()


def _requests_fetch(work: Callable[[Get], None], trusted: str) -> None:
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=2 * THREADS))
        work(lambda url: session.get(url, timeout=30, verify=trusted).content)


@contextmanager
def _trusting(authority: Path) -> Iterator[None]:
    """OpenSSL's own way to name the authorities that are trusted."""
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(authority)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SSL_CERT_FILE"]
        else:
            os.environ["SSL_CERT_FILE"] = before
