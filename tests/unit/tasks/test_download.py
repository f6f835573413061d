"""A shard is downloaded whole, within its limits, and accounts for every row, whatever the servers do."""

from __future__ import annotations

import email.utils
import gzip
import hashlib
import io
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from feature_extraction.samples import ImageSample, read_image_shard
from tasks import download as download_room
from tasks import fetch as fetch_room
from tasks.config import DatasetConfig, DownloadConfig
from tasks.download import download_shard
from tasks.fetch import Fetched, Fetcher, is_public
from tasks.manifest import list_shards, make_manifest
from tasks.records import Outcome, Receipt, ShardResult
from tasks.storage import Root

# Waits are short so that tests are; loopback is allowed because the servers of these tests live there.
CONFIG = DownloadConfig(
    threads=8,
    connect_timeout_seconds=2.0,
    read_timeout_seconds=1.0,
    deadline_seconds=2.0,
    retries=2,
    backoff_seconds=0.01,
    max_bytes=100_000,
    max_redirects=3,
    min_side=8,
    allow_private_addresses=True,
)


def picture(colour: str = "red", size: tuple[int, int] = (40, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "JPEG")
    return stream.getvalue()


JPEG = picture()


class Handler(BaseHTTPRequestHandler):
    """One fault per path. `server.requests` counts what arrived, before it is answered."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests[self.path] += 1
            count = self.server.requests[self.path]
            self.server.headers_seen[self.path] = dict(self.headers)
            self.server.clients.add(self.client_address)
        fault = self.path.split("/")[1]
        handle: Callable[[int], None] = getattr(self, f"do_{fault}", self.do_status)
        handle(count)

    def do_ok(self, count: int) -> None:
        self.answer(200, JPEG)

    def do_status(self, count: int) -> None:
        self.answer(int(self.path.split("/")[1]))

    def do_once(self, count: int) -> None:
        """503 at first, then the picture."""
        if count == 1:
            self.answer(503)
        else:
            self.answer(200, JPEG)

    def do_redirect(self, count: int) -> None:
        self.answer(302, b"moved", Location="/ok/after-redirect")

    def do_loop(self, count: int) -> None:
        self.answer(301, Location=self.path)

    def do_away(self, count: int) -> None:
        self.answer(302, Location=self.server.away)

    def do_html(self, count: int) -> None:
        self.answer(200, b"<html>gone</html>")

    def do_large(self, count: int) -> None:
        self.answer(200, JPEG + bytes(200_000))

    def do_endless(self, count: int) -> None:
        """No declared length; sends until the client hangs up."""
        self.send_response(200)
        self.end_headers()
        try:
            while not self.server.closing.is_set():
                self.wfile.write(bytes(1 << 16))
                self.server.sent += 1 << 16
        except OSError:
            self.close_connection = True

    def do_truncated(self, count: int) -> None:
        """The body ends before its declared length."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(JPEG)))
        self.end_headers()
        self.wfile.write(JPEG[: len(JPEG) // 2])
        self.close_connection = True

    def do_gzip(self, count: int) -> None:
        self.answer(200, gzip.compress(JPEG), Content_Encoding="gzip")

    def do_nogzip(self, count: int) -> None:
        self.answer(200, JPEG, Content_Encoding="gzip")

    def do_inflating(self, count: int) -> None:
        """A small body that unpacks to a large one."""
        self.answer(200, gzip.compress(bytes(10_000_000)), Content_Encoding="gzip")

    def do_cut(self, count: int) -> None:
        """The transfer is whole, the picture in it is not."""
        self.answer(200, JPEG[:-20])

    def do_reset(self, count: int) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def do_drip(self, count: int) -> None:
        """Part of the body, then one byte at a time, always within the read timeout."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(JPEG)))
        self.end_headers()
        self.drip(JPEG)

    def do_dripheader(self, count: int) -> None:
        self.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 10_000)

    def do_hang(self, count: int) -> None:
        self.server.closing.wait(10)
        self.close_connection = True

    def do_later(self, count: int) -> None:
        if count == 1:
            self.answer(429, Retry_After="1")
        else:
            self.answer(200, JPEG)

    def drip(self, content: bytes) -> None:
        try:
            for index in range(len(content)):
                self.wfile.write(content[index : index + 1])
                if self.server.closing.wait(0.05):
                    break
        except OSError:
            pass
        self.close_connection = True


@pytest.fixture(scope="module")
def running() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.lock = threading.Lock()  # type: ignore[attr-defined]
    server.closing = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.closing.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(running: Any) -> Any:
    running.requests = Counter()
    running.headers_seen = {}
    running.clients = set()
    running.away = ""
    running.sent = 0
    running.url = f"http://127.0.0.1:{running.server_port}"
    return running


def fetch(url: str, **changes: object) -> Fetched:
    fetcher = Fetcher(CONFIG.model_copy(update=changes))
    try:
        return fetcher.fetch(url)
    finally:
        fetcher.close()


class Job:
    """A dataset of one split under a fresh root."""

    def __init__(self, root_uri: str, rows: list[tuple[str, str]], shard_size: int = 1024) -> None:
        self.root = Root(root_uri)
        self.root.publish_bytes("rows.tsv", "".join(f"{caption}\t{url}\n" for caption, url in rows).encode())
        self.dataset = DatasetConfig(name="tiny", splits={"train": f"{root_uri}/rows.tsv"}, shard_size=shard_size)
        make_manifest(self.root, self.dataset, "train")

    def download(self, shard: int = 0, progress: Any = None, **changes: object) -> ShardResult:
        ref = list_shards(self.root, self.dataset, "train")[shard]
        return download_shard(self.root, self.dataset, ref, CONFIG.model_copy(update=changes), progress)

    def samples(self, shard: int = 0) -> list[ImageSample]:
        with self.root.open(f"datasets/tiny/train/images/images-{shard:05d}.tar") as stream:
            return list(read_image_shard(stream, "images"))

    def table(self, shard: int = 0) -> list[dict[str, Any]]:
        with self.root.open(f"datasets/tiny/train/images/outcomes-{shard:05d}.parquet") as stream:
            return pq.read_table(stream).to_pylist()


# --- one URL --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "outcome", "requests"),
    [
        ("/ok/1", Outcome.OK, 1),
        ("/once/1", Outcome.OK, 2),
        ("/404/1", Outcome.NOT_FOUND, 1),
        ("/410/1", Outcome.NOT_FOUND, 1),
        ("/401/1", Outcome.FORBIDDEN, 1),
        ("/403/1", Outcome.FORBIDDEN, 1),
        ("/418/1", Outcome.HTTP_4XX, 1),
        ("/304/1", Outcome.HTTP_4XX, 1),
        ("/429/1", Outcome.RATE_LIMITED, 3),
        ("/500/1", Outcome.HTTP_5XX, 3),
        ("/loop/1", Outcome.TOO_MANY_REDIRECTS, 4),
        ("/large/1", Outcome.TOO_LARGE, 1),
        ("/endless/1", Outcome.TOO_LARGE, 1),
        ("/truncated/1", Outcome.TRUNCATED, 3),
        ("/reset/1", Outcome.CONNECT, 3),
        ("/gzip/1", Outcome.OK, 1),
        ("/nogzip/1", Outcome.NOT_AN_IMAGE, 1),
        ("/inflating/1", Outcome.TOO_LARGE, 1),
    ],
)
def test_fault_ends_as_its_outcome_after_so_many_requests(
    server: Any, path: str, outcome: Outcome, requests: int
) -> None:
    fetched = fetch(server.url + path)
    assert (fetched.outcome, server.requests[path]) == (outcome, requests)
    assert (fetched.body == JPEG) == (outcome is Outcome.OK)
    assert bool(fetched.detail) == (outcome is not Outcome.OK)
    assert "0x" not in fetched.detail


def test_redirect_is_followed(server: Any) -> None:
    fetched = fetch(server.url + "/redirect/1")
    assert (fetched.outcome, fetched.status, fetched.body) == (Outcome.OK, 200, JPEG)


@pytest.mark.parametrize("path", ["/drip/1", "/dripheader/1"])
def test_dripping_server_is_cut_off_at_the_deadline(server: Any, path: str) -> None:
    start = time.monotonic()
    fetched = fetch(server.url + path, deadline_seconds=0.5, retries=0)
    assert fetched.outcome is Outcome.TIMEOUT
    assert 0.4 < time.monotonic() - start < 1.5


def test_silent_server_is_given_up_after_the_read_timeout(server: Any) -> None:
    fetched = fetch(server.url + "/hang/1", read_timeout_seconds=0.2, retries=0)
    assert fetched.outcome is Outcome.TIMEOUT
    assert fetched.seconds < 1.5


def test_deadline_holds_for_redirects_and_body_together(server: Any) -> None:
    server.away = "/drip/1"
    start = time.monotonic()
    assert fetch(server.url + "/away/1", deadline_seconds=0.5, retries=0).outcome is Outcome.TIMEOUT
    assert time.monotonic() - start < 1.5


def test_endless_body_is_read_only_to_the_limit(server: Any) -> None:
    fetch(server.url + "/endless/1")
    assert server.sent < 20_000_000  # socket buffers, not the 2 s that the deadline would have allowed


def test_nothing_listening_is_connect() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        fetched = fetch(f"http://127.0.0.1:{bound.getsockname()[1]}/1")
    assert (fetched.outcome, fetched.attempts) == (Outcome.CONNECT, 3)


def test_plain_server_behind_https_is_tls(server: Any) -> None:
    fetched = fetch(server.url.replace("http:", "https:") + "/ok/1")
    assert (fetched.outcome, fetched.attempts) == (Outcome.TLS, 1)


def test_name_that_does_not_resolve_is_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    fetched = fetch("http://nowhere.example/1")
    assert (fetched.outcome, fetched.detail, fetched.attempts) == (Outcome.DNS, "Name or service not known", 3)


@pytest.mark.parametrize("url", ["http://exa mple/1", f"http://{'a' * 70}.example/1", "http://a..b/1"])
def test_host_that_cannot_be_asked_for_is_bad_url(url: str) -> None:
    assert fetch(url).outcome is Outcome.BAD_URL


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://a.example/1", "http://[1/", "gopher://a/"])
def test_redirect_leaves_the_web_never(server: Any, target: str) -> None:
    server.away = target
    fetched = fetch(server.url + "/away/1")
    assert (fetched.outcome, fetched.attempts) == (Outcome.BAD_URL, 1)


def test_loopback_is_refused_by_default(server: Any) -> None:
    fetched = fetch(server.url + "/ok/1", allow_private_addresses=False)
    assert (fetched.outcome, fetched.attempts) == (Outcome.BLOCKED_ADDRESS, 1)
    assert not server.requests


def test_redirect_into_a_private_network_is_refused(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first hop counts as public, so that there is one; 127.0.0.2 is as private as it ever was.
    monkeypatch.setattr(fetch_room, "is_public", lambda address: address == "127.0.0.1" or is_public(address))
    server.away = f"http://127.0.0.2:{server.server_port}/ok/secret"
    fetched = fetch(server.url + "/away/1", allow_private_addresses=False)
    assert fetched.outcome is Outcome.BLOCKED_ADDRESS
    assert server.requests == {"/away/1": 1}


def test_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    assert fetch("http://rebinding.example/1", allow_private_addresses=False).outcome is Outcome.BLOCKED_ADDRESS


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("64:ff9b::808:808", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("fd00::1", False),
        ("fe80::1%eth0", False),
        ("::ffff:127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
    ],
)
def test_public_addresses_are_told_from_private_ones(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_retry_after_is_honoured_and_capped(server: Any) -> None:
    pauses: list[float] = []
    assert Fetcher(CONFIG).fetch(server.url + "/later/1", pause=pauses.append).outcome is Outcome.OK
    assert pauses == [1.0]
    pauses.clear()
    short = CONFIG.model_copy(update={"deadline_seconds": 0.5})
    assert Fetcher(short).fetch(server.url + "/later/2", pause=pauses.append).outcome is Outcome.OK
    assert pauses == [0.5]


def test_retry_after_may_be_a_date() -> None:
    soon = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=100))
    assert fetch_room._retry_after(soon) == pytest.approx(100, abs=5)
    assert fetch_room._retry_after("Thu, 01 Jan 1970 00:00:00 GMT") == 0.0
    assert fetch_room._retry_after("soon") is None


def test_backoff_doubles(server: Any) -> None:
    pauses: list[float] = []
    Fetcher(CONFIG.model_copy(update={"retries": 3, "backoff_seconds": 0.1})).fetch(
        server.url + "/503/1", pause=pauses.append
    )
    assert [0.5 <= pause / wanted <= 1.5 for pause, wanted in zip(pauses, (0.1, 0.2, 0.4), strict=True)] == [True] * 3


def test_connections_are_kept_and_the_agent_is_honest(server: Any) -> None:
    fetcher = Fetcher(CONFIG)
    for number in range(5):
        assert fetcher.fetch(f"{server.url}/ok/{number}").outcome is Outcome.OK
    fetcher.close()
    assert len(server.clients) == 1
    assert server.headers_seen["/ok/0"]["User-Agent"] == CONFIG.user_agent
    assert "Cookie" not in server.headers_seen["/ok/4"]


# --- one shard ------------------------------------------------------------------------------------------------------


def test_shard_accounts_for_every_row_in_key_order(server: Any, tmp_path: Path) -> None:
    rows = [
        ("good", f"{server.url}/ok/1"),
        ("gone", f"{server.url}/404/1"),
        ("page", f"{server.url}/html/1"),
        ("again", f"{server.url}/ok/1"),
        ("no url", "ftp://a.example/1"),
        ("cut", f"{server.url}/cut/1"),
        ("good too", f"{server.url}/ok/2"),
        ("", f"{server.url}/ok/3"),
    ]
    job = Job(str(tmp_path / "root"), rows)
    receipt = job.download().receipt
    assert receipt.counts == {
        "bad_row": 1,
        "bad_url": 1,
        "duplicate": 1,
        "not_an_image": 1,
        "not_found": 1,
        "ok": 2,
        "truncated": 1,
    }
    assert [(sample.key, sample.caption, sample.jpeg) for sample in job.samples()] == [
        ("000000000", "good", JPEG),
        ("000000006", "good too", JPEG),
    ]
    table = job.table()
    assert [line["key"] for line in table] == [f"{number:09d}" for number in range(8)]
    assert [line["outcome"] for line in table] == [
        "ok", "not_found", "not_an_image", "duplicate", "bad_url", "truncated", "ok", "bad_row",
    ]  # fmt: skip
    assert (table[0]["width"], table[0]["height"], table[0]["http_status"]) == (40, 30, 200)
    assert table[0]["sha256"] == hashlib.sha256(JPEG).hexdigest()
    assert (table[1]["http_status"], table[1]["attempts"], table[1]["width"]) == (404, 1, None)
    assert table[2]["detail"] == "a web page"
    assert (table[3]["image_key"], table[3]["attempts"]) == ("000000000", 0)
    assert server.requests["/ok/1"] == 1
    assert server.requests["/cut/1"] == 1  # the transfer was whole: asking again brings the same picture


def test_files_match_their_digests_and_none_is_unfinished(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1")])
    receipt = job.download().receipt
    folder = tmp_path / "root/datasets/tiny/train/images"
    assert sorted(path.name for path in folder.iterdir()) == [
        "images-00000.json",
        "images-00000.tar",
        "outcomes-00000.parquet",
    ]
    for name, digest in receipt.files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest.sha256


def test_resume_asks_for_nothing_again(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1"), ("b", f"{server.url}/404/1")])
    first, second = job.download(), job.download(threads=1, retries=0, deadline_seconds=9.0)
    assert (first.skipped, second.skipped) == (False, True)
    assert second.receipt == first.receipt
    assert server.requests == {"/ok/1": 1, "/404/1": 1}


def test_settings_that_change_the_images_redo_the_shard(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1")])
    job.download()
    assert not job.download(min_side=35).skipped
    assert job.table()[0]["outcome"] == "too_small"
    assert job.samples() == []


def test_lost_tar_is_downloaded_again(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1")])
    job.download()
    (tmp_path / "root/datasets/tiny/train/images/images-00000.tar").unlink()
    assert not job.download().skipped
    assert len(job.samples()) == 1


def test_every_setting_is_known_to_change_the_result_or_not() -> None:
    only_how = {
        "threads",
        "connect_timeout_seconds",
        "read_timeout_seconds",
        "deadline_seconds",
        "retries",
        "backoff_seconds",
        "user_agent",
        "min_success_rate",
    }
    assert download_room.RESULT_SETTINGS | only_how == set(DownloadConfig.model_fields)
    assert not download_room.RESULT_SETTINGS & only_how


def test_bytes_do_not_depend_on_threads_or_completion_order(server: Any, tmp_path: Path) -> None:
    rows = [(f"c{number}", f"{server.url}/{'once' if number % 3 else 'ok'}/{number}") for number in range(24)]
    digests = set()
    for threads in (1, 8):
        server.requests.clear()
        job = Job(str(tmp_path / f"root{threads}"), rows)
        digests.add(job.download(threads=threads).receipt.files["images-00000.tar"].sha256)
    assert len(digests) == 1


def test_duplicate_of_an_earlier_shard_is_not_fetched(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1"), ("b", f"{server.url}/ok/1")], shard_size=1)
    assert job.download(0).receipt.counts == {"ok": 1}
    assert job.download(1).receipt.counts == {"duplicate": 1}
    assert job.samples(1) == []
    assert server.requests == {"/ok/1": 1}


def test_works_on_a_memory_root(server: Any, tmp_path: Path) -> None:
    job = Job(f"memory://{tmp_path.name}-download", [("a", f"{server.url}/ok/1")])
    assert job.download().receipt.counts == {"ok": 1}
    assert job.samples()[0].jpeg == JPEG
    assert job.download().skipped


def test_progress_counts_every_url_once(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [(f"c{number}", f"{server.url}/ok/{number % 3}") for number in range(5)])
    calls: list[tuple[int, int]] = []
    job.download(progress=lambda finished, total: calls.append((finished, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_bug_stops_the_shard_and_is_no_outcome(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(content: bytes, config: DownloadConfig) -> tuple[bytes, tuple[int, int]]:
        raise KeyError("a bug")

    monkeypatch.setattr(download_room, "accept_picture", broken)
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1")])
    with pytest.raises(KeyError, match="a bug") as caught:
        job.download()
    assert "key 000000000" in caught.value.__notes__[0]
    assert not (tmp_path / "root/datasets/tiny/train/images").exists()


def test_full_disk_stops_the_shard_and_leaves_no_part(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download_room, "_write_table", full)
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1")])
    with pytest.raises(OSError, match="No space left"):
        job.download()
    names = [path.name for path in (tmp_path / "root/datasets/tiny/train/images").iterdir()]
    assert names == ["images-00000.tar"]  # whole, and without a receipt it does not count
    monkeypatch.undo()
    assert job.download().receipt.counts == {"ok": 1}


def test_error_does_not_wait_out_the_back_off_of_others(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(content: bytes, config: DownloadConfig) -> tuple[bytes, tuple[int, int]]:
        raise KeyError("a bug")

    monkeypatch.setattr(download_room, "accept_picture", broken)
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/503/1"), ("b", f"{server.url}/ok/1")])
    start = time.monotonic()
    with pytest.raises(KeyError):
        job.download(backoff_seconds=60.0, deadline_seconds=60.0)
    assert time.monotonic() - start < 5


def test_receipt_on_disk_is_the_one_returned(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1")])
    result = job.download()
    stored = job.root.read_model("datasets/tiny/train/images/images-00000.json", Receipt)
    assert stored == result.receipt
