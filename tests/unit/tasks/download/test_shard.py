"""A shard is downloaded whole, goes on where it was interrupted, and accounts for every row, whatever servers do."""

from __future__ import annotations

import hashlib
import io
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from feature_extraction.identity import in_identity
from feature_extraction.samples.images import ImageSample, read_image_shard
from tasks.config import DatasetConfig, RowsConfig
from tasks.download import fetching as fetching_room
from tasks.download import shard as download_room
from tasks.download.config import DownloadConfig, RetryConfig
from tasks.download.fetching import Session
from tasks.download.journal import Journal
from tasks.download.outcomes import RowOutcome, read_outcomes
from tasks.download.settings import begun_datasets, check_settings, keep_settings, result_settings
from tasks.download.shard import Again, download_shard, standing_shard
from tasks.errors import UserError
from tasks.records import Outcome, Receipt, ShardRef, ShardResult
from tasks.rows.manifest import list_shards, make_manifest
from tasks.storage.root import Root
from tests.faults import CONFIG, JPEG, bomb, picture

FAILURES = Again(failures=RetryConfig())
FOLDER = "datasets/tiny/train/images"


class Job:
    """A dataset of one split under a fresh root."""

    def __init__(self, root_uri: str, rows: list[tuple[str, str]], shard_size: int = 1024, **source: Any) -> None:
        self.root = Root(root_uri)
        self.root.publish_bytes("rows.tsv", "".join(f"{caption}\t{url}\n" for caption, url in rows).encode())
        config = RowsConfig(rows=f"{root_uri}/rows.tsv", **source)
        self.dataset = DatasetConfig(name="tiny", splits={"train": config}, shard_size=shard_size)
        make_manifest(self.root, self.dataset, "train")

    def ref(self, shard: int = 0) -> ShardRef:
        return list_shards(self.root, self.dataset, "train")[shard]

    def download(
        self, shard: int = 0, again: Again = download_room.NOTHING_AGAIN, progress: Any = None, **changes: object
    ) -> ShardResult:
        config = CONFIG.model_copy(update=changes)
        with Session(self.dataset, "train", config) as session:
            return download_shard(self.root, self.dataset, self.ref(shard), session, again, progress)

    def samples(self, shard: int = 0) -> list[ImageSample]:
        with self.root.open(f"{FOLDER}/images-{shard:05d}.tar") as stream:
            return list(read_image_shard(stream, "images"))

    def table(self, shard: int = 0) -> list[dict[str, Any]]:
        with self.root.open(f"{FOLDER}/outcomes-{shard:05d}.parquet") as stream:
            return pq.read_table(stream).to_pylist()

    def files(self) -> list[str]:
        return sorted(path.name for path in Path(self.root.path(FOLDER)).iterdir())


# --- one shard ------------------------------------------------------------------------------------------------------


def test_shard_accounts_for_every_row_in_key_order(server: Any, tmp_path: Path) -> None:
    rows = [
        ("good", f"{server.url}/ok/1"),
        ("missing", f"{server.url}/404/1"),
        ("page", f"{server.url}/html/1"),
        ("again", f"{server.url}/ok/1"),
        ("no url", "ftp://a.example/1"),
        ("cut", f"{server.url}/cut/1"),
        ("good too", f"{server.url}/ok/2"),
        ("", f"{server.url}/ok/3"),
        ("gone", f"{server.url}/410/1"),
        ("asleep", f"{server.url}/503/1"),
    ]
    job = Job(str(tmp_path / "root"), rows)
    begun = int(time.time())
    receipt = job.download().receipt
    assert receipt.counts == {
        "bad_row": 1,
        "bad_url": 1,
        "duplicate": 1,
        "gone": 1,
        "http_5xx": 1,
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
    assert [line["key"] for line in table] == [f"{number:09d}" for number in range(10)]
    assert [line["outcome"] for line in table] == [
        "ok", "not_found", "not_an_image", "duplicate", "bad_url", "truncated", "ok", "bad_row", "gone", "http_5xx",
    ]  # fmt: skip
    assert (table[0]["width"], table[0]["height"], table[0]["bytes"], table[0]["http_status"]) == (
        40,
        30,
        len(JPEG),
        200,
    )
    assert table[0]["sha256"] == hashlib.sha256(JPEG).hexdigest()
    assert begun <= table[0]["tried_at"] <= time.time()
    assert (table[1]["http_status"], table[1]["attempts"], table[1]["width"]) == (404, 1, None)
    assert table[2]["detail"] == "a web page"
    assert table[4]["detail"] == "does not begin with http:// or https://"
    assert table[7]["detail"] == "its caption is blank"
    assert (table[3]["image_key"], table[3]["attempts"], table[3]["tried_at"]) == ("000000000", 0, 0)
    assert (table[9]["attempts"], server.requests["/503/1"]) == (3, 3)
    assert server.requests["/ok/1"] == server.requests["/404/1"] == server.requests["/410/1"] == 1
    assert server.requests["/cut/1"] == 1  # the transfer was whole: asking again brings the same picture
    assert read_outcomes(job.root, job.ref())[1].outcome is Outcome.NOT_FOUND


FAULTS = {
    "ok": (Outcome.OK, 1),
    "gzip": (Outcome.OK, 1),
    "once": (Outcome.OK, 2),
    "later": (Outcome.OK, 2),
    "redirect": (Outcome.OK, 1),
    "404": (Outcome.NOT_FOUND, 1),
    "410": (Outcome.GONE, 1),
    "403": (Outcome.FORBIDDEN, 1),
    "418": (Outcome.HTTP_4XX, 1),
    "500": (Outcome.HTTP_5XX, 3),
    "429": (Outcome.RATE_LIMITED, 3),
    "loop": (Outcome.TOO_MANY_REDIRECTS, 4),
    "large": (Outcome.TOO_LARGE, 1),
    "declared": (Outcome.TOO_LARGE, 1),
    "undeclared": (Outcome.TOO_LARGE, 1),
    "endless": (Outcome.TOO_LARGE, 1),
    "inflating": (Outcome.TOO_LARGE, 1),
    "bomb": (Outcome.TOO_LARGE, 1),
    "html": (Outcome.NOT_AN_IMAGE, 1),
    "cut": (Outcome.TRUNCATED, 1),
    "truncated": (Outcome.TRUNCATED, 3),
    "chunkcut": (Outcome.TRUNCATED, 3),
    "drip": (Outcome.TIMEOUT, None),
    "dripheader": (Outcome.TIMEOUT, None),
    "hang": (Outcome.TIMEOUT, None),
}


@pytest.mark.slow("servers that hang until a deadline")
def test_every_fault_ends_as_its_outcome_in_bounded_time(server: Any, tmp_path: Path) -> None:
    """The deadline holds over all attempts of a URL; a fault costs the requests it deserves, and nobody else's time."""
    rows = [(fault, f"{server.url}/{fault}/mix") for fault in FAULTS]
    job = Job(str(tmp_path / "root"), rows)
    bomb()  # It takes a second to make: not of the deadline.
    begun = time.monotonic()
    job.download(threads=len(rows), per_host=len(rows), deadline_seconds=4.0, read_timeout_seconds=2.0)
    assert time.monotonic() - begun < 20  # A busy machine; without deadlines, what drips takes 32 s.
    found = {line["url"].split("/")[3]: line["outcome"] for line in job.table()}
    assert found == {fault: outcome.value for fault, (outcome, _) in FAULTS.items()}
    expected = {f"/{fault}/mix": requests for fault, (_, requests) in FAULTS.items() if requests is not None}
    assert {path: server.requests[path] for path in expected} == expected
    assert all(line["seconds"] < 15 for line in job.table())
    assert all(bool(line["detail"]) == (line["outcome"] != "ok") for line in job.table())


def test_files_match_their_digests_and_none_is_unfinished(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1")])
    receipt = job.download().receipt
    assert job.files() == ["images-00000.json", "images-00000.tar", "outcomes-00000.parquet"]
    for name, digest in receipt.files.items():
        assert hashlib.sha256(job.root.read_bytes(f"{FOLDER}/{name}")).hexdigest() == digest.sha256
    assert list((tmp_path / "root").rglob("*.journal")) == []
    assert job.root.read_model(f"{FOLDER}/images-00000.json", Receipt) == receipt


def test_shard_that_stands_asks_for_nothing(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1"), ("b", f"{server.url}/404/1")])
    assert standing_shard(job.root, job.dataset, job.ref(), CONFIG) is None
    first, second = job.download(), job.download(threads=1, retries=0, deadline_seconds=9.0)
    assert (first.skipped, second.skipped) == (False, True)
    assert second.receipt == first.receipt
    assert standing_shard(job.root, job.dataset, job.ref(), CONFIG) == second
    assert server.requests == {"/ok/1": 1, "/404/1": 1}


def test_lost_tar_is_downloaded_again(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1")])
    job.download()
    (tmp_path / "root" / FOLDER / "images-00000.tar").unlink()
    assert not job.download().skipped
    assert len(job.samples()) == 1


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


def test_works_on_a_memory_root(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    job = Job(f"memory://{tmp_path.name}-download", [("a", f"{server.url}/ok/1"), ("b", f"{server.url}/once/1")])
    assert job.download(retries=0).receipt.counts == {"http_5xx": 1, "ok": 1}
    assert job.download(again=FAILURES).receipt.counts == {"ok": 2}
    assert [sample.jpeg for sample in job.samples()] == [JPEG, JPEG]
    assert job.download().skipped
    assert list(tmp_path.rglob("*.journal")) == []


def test_a_shard_made_from_a_manifest_without_details_stands(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("good", f"{server.url}/ok/1"), ("no url", "ftp://a.example/1")])
    path = job.root.local("datasets/tiny/train/manifest.parquet")
    manifest = pq.read_table(path)
    pq.write_table(manifest.drop_columns(["detail"]), path)
    assert not job.download().skipped
    assert job.table()[1]["detail"] == ""
    pq.write_table(manifest, path)
    assert job.download().skipped


def test_pictures_on_disk_take_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.jpg").write_bytes(JPEG)
    (tmp_path / "pictures/b.jpg").write_bytes(JPEG[:-20])
    rows = [("one", "a.jpg"), ("two", "a.jpg"), ("three", "b.jpg"), ("four", "absent.jpg"), ("five", "../a.jpg")]
    job = Job(str(tmp_path / "root"), rows, images=str(tmp_path / "pictures"))
    counts = job.download().receipt.counts
    assert counts == {"bad_url": 1, "duplicate": 1, "not_found": 1, "ok": 1, "truncated": 1}
    assert [(sample.url, sample.jpeg) for sample in job.samples()] == [("a.jpg", JPEG)]


def test_progress_begins_with_what_needs_no_request_and_counts_every_row(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [(f"c{number}", f"{server.url}/ok/{number % 3}") for number in range(5)])
    calls: list[Counter[str]] = []
    job.download(progress=lambda ended: calls.append(ended.copy()))
    assert calls == [{"duplicate": 2, "ok": number} if number else {"duplicate": 2} for number in range(4)]


# --- going on after an interrupt ------------------------------------------------------------------------------------


class InterruptError(Exception):
    pass


def interrupt_after(number: int) -> Callable[[Counter[str]], None]:
    def progress(ended: Counter[str]) -> None:
        if ended.total() == number:
            raise InterruptError

    return progress


def test_interrupted_shard_goes_on_with_what_is_missing(server: Any, tmp_path: Path) -> None:
    rows = [(f"c{number}", f"{server.url}/{'404' if number % 4 == 3 else 'ok'}/{number}") for number in range(40)]
    whole = Job(str(tmp_path / "whole"), rows)
    expected = whole.download().receipt.files["images-00000.tar"].sha256
    server.requests.clear()
    job = Job(str(tmp_path / "root"), rows)
    for number in (5, 17, 30):
        with pytest.raises(InterruptError):
            job.download(progress=interrupt_after(number), threads=2)
        assert not (tmp_path / "root" / FOLDER).exists()
    assert job.download().receipt.files["images-00000.tar"].sha256 == expected
    assert max(server.requests.values()) <= 4
    # What the two threads of each of three runs had in hand; whatever had been kept was asked for once.
    assert server.requests.total() <= 40 + 3 * 2 * 2
    assert list((tmp_path / "root").rglob("*.journal")) == []


def test_kill_between_any_two_files_is_made_good_without_a_request(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publishing of a first download, and of retried failures, stopped before each of its steps in turn."""
    rows = [("a", f"{server.url}/ok/1"), ("b", f"{server.url}/once/1"), ("c", f"{server.url}/404/1")]
    job = Job(str(tmp_path / "root"), rows)
    publish, remove = Root.publish, Root.remove

    def stop_at(step: int) -> None:
        steps = iter(range(100))

        def count() -> None:
            if next(steps) == step:
                raise InterruptError

        def stopping_publish(self: Root, *args: Any) -> Any:
            count()
            return publish(self, *args)

        def stopping_remove(self: Root, *args: Any) -> None:
            count()
            remove(self, *args)

        monkeypatch.setattr(Root, "publish", stopping_publish)
        monkeypatch.setattr(Root, "remove", stopping_remove)

    for step in range(4):  # receipt removed, tar, table, receipt
        stop_at(step)
        with pytest.raises(InterruptError):
            job.download(retries=0)
    monkeypatch.undo()
    assert job.download(retries=0).receipt.counts == {"http_5xx": 1, "not_found": 1, "ok": 1}
    assert set(server.requests.values()) == {1}

    for step in range(4):
        stop_at(step)
        with pytest.raises(InterruptError):
            job.download(again=FAILURES)
    monkeypatch.undo()
    assert server.requests == {"/ok/1": 1, "/once/1": 2, "/404/1": 1}
    result = job.download()  # without asking for failures: what was begun is finished all the same
    assert result.receipt.counts == {"not_found": 1, "ok": 2}
    assert server.requests == {"/ok/1": 1, "/once/1": 2, "/404/1": 1}
    assert [sample.key for sample in job.samples()] == ["000000000", "000000001"]
    assert job.download().skipped


def test_bug_stops_the_shard_and_is_no_outcome(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(content: bytes, config: DownloadConfig) -> tuple[bytes, tuple[int, int]]:
        raise KeyError("a bug")

    monkeypatch.setattr(fetching_room, "accept_picture", broken)
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1")])
    with pytest.raises(KeyError, match="a bug") as caught:
        job.download()
    assert "key 000000000" in caught.value.__notes__[0]
    assert not (tmp_path / "root" / FOLDER).exists()


def test_full_disk_stops_the_shard_and_costs_no_request_twice(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download_room, "write_outcomes", full)
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1")])
    with pytest.raises(OSError, match="No space left"):
        job.download()
    assert job.files() == ["images-00000.tar"]  # whole, and without a receipt it does not count
    monkeypatch.undo()
    assert job.download().receipt.counts == {"ok": 1}
    assert server.requests == {"/ok/1": 1}


def test_disk_that_is_full_for_the_journal_stops_the_shard(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Journal, outcome: RowOutcome, jpeg: bytes | None) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "append", full)
    job = Job(str(tmp_path / "root"), [(f"c{number}", f"{server.url}/ok/{number}") for number in range(50)])
    with pytest.raises(OSError, match="No space left"):
        job.download(threads=2)
    assert server.requests.total() < 50  # nobody goes on fetching for a disk that takes nothing


def test_error_does_not_wait_out_the_back_off_of_others(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(content: bytes, config: DownloadConfig) -> tuple[bytes, tuple[int, int]]:
        raise KeyError("a bug")

    monkeypatch.setattr(fetching_room, "accept_picture", broken)
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/503/left"), ("b", f"{server.url}/ok/1")])
    start = time.monotonic()
    with pytest.raises(KeyError):
        job.download(backoff_seconds=60.0)
    assert time.monotonic() - start < 10


# --- failures again -------------------------------------------------------------------------------------------------


def test_failures_that_may_pass_are_tried_again_and_nothing_else(server: Any, tmp_path: Path) -> None:
    rows = [
        ("good", f"{server.url}/ok/1"),
        ("asleep", f"{server.url}/once/1"),
        ("missing", f"{server.url}/404/1"),
        ("asleep too", f"{server.url}/503/1"),
        ("good too", f"{server.url}/ok/2"),
    ]
    job = Job(str(tmp_path / "root"), rows)
    first = job.download(retries=0)
    assert first.receipt.counts == {"http_5xx": 2, "not_found": 1, "ok": 2}
    second = job.download(again=FAILURES)
    assert second.receipt.counts == {"http_5xx": 1, "not_found": 1, "ok": 3}
    assert server.requests == {"/ok/1": 1, "/ok/2": 1, "/404/1": 1, "/once/1": 2, "/503/1": 4}
    assert [(sample.key, sample.caption) for sample in job.samples()] == [
        ("000000000", "good"),
        ("000000001", "asleep"),
        ("000000004", "good too"),
    ]
    assert second.receipt.fingerprint == first.receipt.fingerprint
    assert second.receipt.files["images-00000.tar"] != first.receipt.files["images-00000.tar"]
    for name, digest in second.receipt.files.items():
        assert hashlib.sha256(job.root.read_bytes(f"{FOLDER}/{name}")).hexdigest() == digest.sha256
    assert job.download().skipped


def test_tar_of_retried_failures_is_that_of_a_download_without_them(server: Any, tmp_path: Path) -> None:
    rows = [(f"c{number}", f"{server.url}/{'once' if number % 2 else 'ok'}/{number}") for number in range(12)]
    whole = Job(str(tmp_path / "whole"), rows)
    expected = whole.download().receipt.files["images-00000.tar"]
    server.requests.clear()
    job = Job(str(tmp_path / "root"), rows)
    assert job.download(retries=0).receipt.counts == {"http_5xx": 6, "ok": 6}
    assert job.download(again=FAILURES).receipt.files["images-00000.tar"] == expected


def test_failures_that_stay_leave_the_images_as_they_are(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1"), ("b", f"{server.url}/503/1")])
    first = job.download(retries=0).receipt
    tar = (tmp_path / "root" / FOLDER / "images-00000.tar").stat()
    second = job.download(again=FAILURES, retries=0)
    assert not second.skipped
    assert second.receipt.files["images-00000.tar"] == first.files["images-00000.tar"]
    assert (tmp_path / "root" / FOLDER / "images-00000.tar").stat().st_mtime_ns == tar.st_mtime_ns
    assert job.table()[1]["tried_at"] >= job.table()[0]["tried_at"]


def test_failures_are_chosen_by_class_and_age(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/503/1"), ("b", f"{server.url}/404/1")])
    job.download(retries=0)
    server.requests.clear()
    assert job.download(again=Again(failures=RetryConfig(older_than_seconds=3600)), retries=0).skipped
    assert server.requests == {}
    assert not job.download(again=Again(failures=RetryConfig(outcomes=(Outcome.NOT_FOUND,))), retries=0).skipped
    assert server.requests == {"/404/1": 1}
    assert list((tmp_path / "root").rglob("*.journal")) == []


def test_failures_of_any_age_are_tried_again_though_the_clock_was_put_back(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/503/1")])
    job.download(retries=0)
    year_before = time.time() - 31_536_000
    monkeypatch.setattr(time, "time", lambda: year_before)
    assert job.download(again=Again(failures=RetryConfig(older_than_seconds=1)), retries=0).skipped
    assert not job.download(again=FAILURES, retries=0).skipped


def test_shard_without_such_failures_is_skipped(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1")])
    first = job.download()
    again = job.download(again=FAILURES)
    assert again.skipped and again.receipt == first.receipt


def test_interrupted_retry_asks_only_for_the_rest(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [(f"c{number}", f"{server.url}/once/{number}") for number in range(12)])
    job.download(retries=0)
    with pytest.raises(InterruptError):
        job.download(again=FAILURES, progress=interrupt_after(6), threads=1)
    assert job.download(again=FAILURES).receipt.counts == {"ok": 12}
    assert max(server.requests.values()) <= 3 and server.requests.total() <= 2 * 12 + 2


def test_failures_of_a_shard_never_begun_are_refused(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1")])
    with pytest.raises(UserError, match="tiny/train/00000 was not downloaded yet"):
        job.download(again=FAILURES)
    assert server.requests == {}


def test_everything_again_fetches_everything_and_goes_on_after_an_interrupt(server: Any, tmp_path: Path) -> None:
    everything = Again(everything=True)
    job = Job(str(tmp_path / "root"), [(f"c{number}", f"{server.url}/ok/{number}") for number in range(10)])
    job.download()
    with pytest.raises(InterruptError):
        job.download(again=everything, progress=interrupt_after(5), threads=1)
    assert len(job.samples()) == 10  # the old shard stands meanwhile
    assert not job.download(again=everything, threads=1).skipped
    assert server.requests.total() <= 10 + 10 + 2
    assert job.download(again=everything).receipt.counts == {"ok": 10}


# --- settings -------------------------------------------------------------------------------------------------------


def test_settings_of_how_the_work_is_done_make_no_shard_stale() -> None:
    only_how = {
        "threads",
        "per_host",
        "connect_timeout_seconds",
        "read_timeout_seconds",
        "deadline_seconds",
        "retries",
        "backoff_seconds",
        "max_retry_after_seconds",
        "host_failures",
        "host_down_seconds",
        "outage_patience_seconds",
        "user_agent",
        "accept",
        "accept_language",
        "headers",
        "env_proxies",
        "min_success_rate",
    }
    assert set(DownloadConfig.model_fields) - in_identity(DownloadConfig) == only_how
    assert set(result_settings(CONFIG)) == in_identity(DownloadConfig)


def test_other_settings_on_the_same_root_are_refused_by_name(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1")])
    check_settings(job.root, job.dataset, "train", CONFIG)  # nothing was begun
    keep_settings(job.root, job.dataset, "train", CONFIG)
    check_settings(job.root, job.dataset, "train", CONFIG.model_copy(update={"threads": 3, "retries": 9}))
    with pytest.raises(UserError, match=r"short_side=512 then, None now.*--accept-changes"):
        check_settings(job.root, job.dataset, "train", CONFIG.model_copy(update={"short_side": None}))
    larger = job.dataset.model_copy(update={"shard_size": 7})
    with pytest.raises(UserError, match=r"tiny/train .*shard_size=1024 then, 7 now"):
        check_settings(job.root, larger, "train", CONFIG)


def test_root_knows_what_was_begun_and_how(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1")], shard_size=7)
    with pytest.raises(UserError, match=r"nothing was downloaded under .* yet"):
        begun_datasets(job.root, None)
    keep_settings(job.root, job.dataset, "train", CONFIG)
    datasets, settings = begun_datasets(job.root, None)
    assert datasets == [job.dataset]
    check_settings(job.root, datasets[0], "train", DownloadConfig.model_validate(settings))
    other = DatasetConfig(name="other", splits={"val": "rows.tsv"}, shard_size=7)
    keep_settings(job.root, other, "val", CONFIG.model_copy(update={"short_side": None}))
    with pytest.raises(UserError, match=r"other/val and tiny/train .* different settings; .* --only"):
        begun_datasets(job.root, None)
    assert begun_datasets(job.root, ["tiny/train"])[0] == [job.dataset]
    with pytest.raises(UserError, match=r"no split 'tiny/tain' .*; known are other/val, tiny/train"):
        begun_datasets(job.root, ["tiny/tain"])
    job.root.publish_bytes("datasets/.DS_Store", b"not ours")
    assert begun_datasets(job.root, ["tiny/train"])[0] == [job.dataset]


def test_settings_that_change_the_images_redo_the_shard(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [("a", f"{server.url}/ok/1")])
    job.download()
    assert not job.download(min_side=35).skipped
    assert job.table()[0]["outcome"] == "too_small"
    assert job.samples() == []


def test_journal_of_other_settings_is_not_used(server: Any, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "root"), [(f"c{number}", f"{server.url}/ok/{number}") for number in range(4)])
    with pytest.raises(InterruptError):
        job.download(progress=interrupt_after(2), threads=1)
    assert job.download(min_side=35).receipt.counts == {"too_small": 4}


def test_large_pictures_are_stored_smaller_and_the_table_says_how_large(server: Any, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.jpg").write_bytes(picture(size=(400, 300)))
    job = Job(str(tmp_path / "root"), [("a", "a.jpg")], images=str(tmp_path / "pictures"))
    job.download(short_side=64)
    (line,), (sample,) = job.table(), job.samples()
    assert (line["width"], line["height"]) == sample.size == Image.open(io.BytesIO(sample.jpeg)).size == (85, 64)
    assert line["bytes"] == len(sample.jpeg)
