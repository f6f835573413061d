"""Numbers of a download: every row counted once, in parts and whole, on a disk and on an object store."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tasks.download import summary as download_summary
from tasks.download import tally as download_tally
from tasks.download.outcomes import RowOutcome, write_outcomes
from tasks.download.summary import Spread, summarize_download
from tasks.errors import UserError
from tasks.records import Outcome, Receipt, Stage
from tasks.storage.paths import image_receipt_path, manifest_receipt_path, outcomes_path
from tasks.storage.root import Root, now


def ok(row: int, url: str, content: str = "", **changes: Any) -> RowOutcome:
    """A row with a picture; equal `content` means equal bytes."""
    digest = hashlib.sha256((content or url).encode()).hexdigest()
    fields: dict[str, Any] = {"attempts": 1, "seconds": 0.5, "http_status": 200, "width": 60, "height": 40}
    return RowOutcome(
        f"{row:09d}", url, f"{row:09d}", Outcome.OK, **{**fields, "bytes": 1000, "sha256": digest, **changes}
    )


def lost(row: int, url: str, outcome: Outcome, **changes: Any) -> RowOutcome:
    return RowOutcome(f"{row:09d}", url, f"{row:09d}", outcome, **changes)


def twin(row: int, of: int) -> RowOutcome:
    return RowOutcome(f"{row:09d}", "http://x.org/twin", f"{of:09d}", Outcome.DUPLICATE, f"same URL as {of:09d}")


def publish_split(
    root: Root, rows: Sequence[RowOutcome], shard_size: int, missing: Sequence[int] = (), split: str = "train"
) -> None:
    receipt = Receipt(
        stage=Stage.MANIFEST,
        dataset="web",
        split=split,
        shard=0,
        fingerprint="",
        counts={"rows": len(rows)},
        files={},
        seconds=0,
        created_at=now(),
    )
    root.publish_model(manifest_receipt_path("web", split), receipt)
    for shard, start in enumerate(range(0, len(rows), shard_size)):
        if shard in missing:
            continue
        part = rows[start : start + shard_size]
        root.publish(outcomes_path("web", split, shard), lambda stream, part=part: write_outcomes(stream, part))
        root.publish_model(image_receipt_path("web", split, shard), receipt)


@pytest.fixture(params=["disk", "object store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    return Root(str(tmp_path / "root") if request.param == "disk" else f"memory://{uuid.uuid4().hex}")


ROWS = [
    ok(0, "http://a.org/0.jpg", bytes=3000),
    lost(1, "http://b.org/1.jpg", Outcome.DNS, detail="no such name", seconds=7.0),
    twin(2, of=0),
    lost(3, "", Outcome.BAD_ROW),
    ok(4, "https://A.org:443/4.jpg", width=500, height=700),
    lost(5, "http://a.org/5.jpg", Outcome.NOT_FOUND, detail="HTTP 404", http_status=404, seconds=0.25),
    twin(6, of=1),
    lost(7, "http://a.org/7.jpg", Outcome.NOT_FOUND, detail="HTTP 404", http_status=404, seconds=0.25),
    lost(8, "http://u:p@b.org/8.jpg", Outcome.TIMEOUT, detail="body too slow", http_status=200, seconds=30.0),
    twin(9, of=5),
]


def test_every_row_is_counted_once_and_duplicates_as_their_originals(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_split(root, ROWS, shard_size=4)
    monkeypatch.setattr(download_summary, "_BATCH_ROWS", 5)
    summary = summarize_download(root, "web", "train")
    assert summary.outcomes == {
        Outcome.OK: 3,
        Outcome.BAD_ROW: 1,
        Outcome.DNS: 2,
        Outcome.TIMEOUT: 1,
        Outcome.NOT_FOUND: 3,
    }
    assert (summary.rows, summary.rows_read, summary.shards, summary.shards_missing) == (10, 10, 3, 0)
    assert summary.success_rate == 0.3
    assert (summary.images, summary.image_bytes) == (2, 4000)
    assert summary.http_statuses == {200: 3, 404: 2}


def test_hosts_are_ranked_by_failures_and_by_time(root: Root) -> None:
    publish_split(root, ROWS, shard_size=4)
    summary = summarize_download(root, "web", "train")
    assert summary.hosts == 2
    failing = [(host.host, host.urls, host.ok, host.failure, host.seconds) for host in summary.failing_hosts]
    assert failing == [("a.org", 4, 2, "not_found", 1.5), ("b.org", 2, 0, "dns", 37.0)]
    assert [host.host for host in summary.slowest_hosts] == ["b.org", "a.org"]


def test_host_is_that_of_the_connection(root: Root) -> None:
    urls = ["http://user:p@ss@E.org:80/", "https://[::1]/x", "HTTP://e.org?q=http://other.org", "http://é.org#a"]
    publish_split(root, [lost(row, url, Outcome.TLS) for row, url in enumerate(urls)], shard_size=9)
    hosts = summarize_download(root, "web", "train").failing_hosts
    assert [(host.host, host.urls) for host in hosts] == [("e.org", 2), ("[::1]", 1), ("é.org", 1)]


def test_most_frequent_detail_stands_for_an_outcome(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    details = ["HTTP 418", "HTTP 400", "HTTP 400", "HTTP 402"]
    rows = [lost(row, f"http://a/{row}", Outcome.HTTP_4XX, detail=text) for row, text in enumerate(details)]
    publish_split(root, rows, shard_size=1)
    monkeypatch.setattr(download_tally, "_MERGE_ROWS", 1)
    monkeypatch.setattr(download_summary, "_BATCH_ROWS", 1)
    (detail,) = summarize_download(root, "web", "train").details
    assert (detail.outcome, detail.detail, detail.urls, detail.example_url) == (
        Outcome.HTTP_4XX,
        "HTTP 400",
        2,
        "http://a/1",
    )


def test_sides_are_measured_in_order_of_size(root: Root) -> None:
    # Short sides 1 to 100, in no order: exactly 5, 50 and 95 of them are at most 5, 50 and 95.
    sides = [(37 * number) % 101 for number in range(1, 101)]
    rows = [
        ok(row, f"http://a/{row}", width=side if row % 2 else 1000, height=1000 if row % 2 else side)
        for row, side in enumerate(sides)
    ]
    publish_split(root, rows, shard_size=64)
    summary = summarize_download(root, "web", "train")
    assert summary.short_side == Spread(low=5, median=50, high=95)
    assert summary.long_side == Spread(low=1000, median=1000, high=1000)


def test_missing_shards_are_left_out_and_named(root: Root) -> None:
    publish_split(root, ROWS, shard_size=4, missing=[1])
    summary = summarize_download(root, "web", "train")
    assert (summary.rows, summary.rows_read, summary.shards, summary.shards_missing) == (10, 6, 2, 1)
    # Row 9 has the URL of row 5, which lies in the missing shard.
    assert summary.outcomes[Outcome.DUPLICATE] == 1
    assert sum(summary.outcomes.values()) == summary.rows_read


@pytest.mark.parametrize("shard_size", [3, 4, 9, 10, 64])
def test_number_of_missing_shards_is_known_from_any_shard(root: Root, shard_size: int) -> None:
    shards = -(-len(ROWS) // shard_size)
    publish_split(root, ROWS, shard_size, missing=range(1, shards))
    assert summarize_download(root, "web", "train").shards_missing == shards - 1
    publish_split(root, ROWS, shard_size, missing=range(shards - 1), split="last")
    assert summarize_download(root, "web", "last").shards_missing == shards - 1


def test_table_without_receipt_is_not_finished(root: Root) -> None:
    publish_split(root, ROWS, shard_size=4)
    root.remove(image_receipt_path("web", "train", 2))
    summary = summarize_download(root, "web", "train")
    assert (summary.shards, summary.shards_missing, summary.rows_read) == (2, 1, 8)


def test_split_without_any_shard_has_no_numbers(root: Root) -> None:
    publish_split(root, ROWS, shard_size=4, missing=[0, 1, 2])
    summary = summarize_download(root, "web", "train")
    assert (summary.rows, summary.rows_read, summary.shards, summary.shards_missing) == (10, 0, 0, None)
    assert (summary.outcomes, summary.success_rate, summary.short_side) == ({}, 0.0, None)


def test_shards_of_another_manifest_are_refused(root: Root) -> None:
    publish_split(root, ROWS, shard_size=4)
    publish_split(root, ROWS[:5], shard_size=4)
    with pytest.raises(UserError, match="made from more rows than its manifest; run: unicoder-vl download"):
        summarize_download(root, "web", "train")


def test_pictures_on_disk_have_no_hosts(root: Root) -> None:
    rows = [ok(0, "val2014/a.jpg", http_status=None), lost(1, "val2014/b.jpg", Outcome.NOT_FOUND)]
    publish_split(root, rows, shard_size=4)
    summary = summarize_download(root, "web", "train")
    assert (summary.hosts, summary.failing_hosts, summary.http_statuses) == (0, (), {})
    assert summary.outcomes == {Outcome.OK: 1, Outcome.NOT_FOUND: 1}


# --- placeholders ---------------------------------------------------------------------------------------------------


def test_same_bytes_behind_ten_urls_are_a_placeholder(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    twelve = [ok(row, f"http://h{row % 3}.org/{row}", "gone") for row in range(0, 24, 2)]
    ten = [ok(row, f"http://one.org/{row}", "blank") for row in range(1, 20, 2)]
    nine = [ok(row, f"http://one.org/{row}", "popular") for row in range(24, 33)]
    others = [ok(row, f"http://one.org/{row}") for row in (21, 23, 33)]
    rows = sorted([*twelve, *ten, *nine, *others, twin(34, of=4), twin(35, of=30)], key=lambda row: row.key)
    publish_split(root, rows, shard_size=5)
    monkeypatch.setattr(download_summary, "_BATCH_ROWS", 7)
    summary = summarize_download(root, "web", "train")
    found = [(group.urls, group.hosts, group.key, group.url) for group in summary.placeholders]
    assert found == [(12, 3, "000000000", "http://h0.org/0"), (10, 1, "000000001", "http://one.org/1")]
    assert summary.placeholders[0].sha256 == hashlib.sha256(b"gone").hexdigest()
    assert (summary.placeholder_groups, summary.placeholder_rows) == (2, 23)

    with root.open(summary.placeholders_path) as stream:
        lines = pq.read_table(stream).to_pylist()
    assert summary.placeholders_path == "datasets/web/train/placeholders.parquet"
    assert [line["key"] for line in lines] == [f"{row:09d}" for row in [*range(21), 22, 34]]
    gone = [line for line in lines if line["sha256"] == summary.placeholders[0].sha256]
    assert [int(line["key"]) for line in gone] == [*range(0, 24, 2), 34]
    assert {line["urls"] for line in gone} == {12}


def test_digests_that_only_begin_alike_are_different_pictures(root: Root) -> None:
    rows = [ok(row, f"http://a/{row}", sha256="ab" * 30 + f"{row % 2:04d}") for row in range(19)]
    publish_split(root, rows, shard_size=100)
    summary = summarize_download(root, "web", "train")
    assert [group.urls for group in summary.placeholders] == [10]  # The other nine are too few.


def test_table_of_placeholders_is_empty_where_there_are_none(root: Root) -> None:
    publish_split(root, ROWS, shard_size=4)
    summary = summarize_download(root, "web", "train")
    with root.open(summary.placeholders_path) as stream:
        table = pq.read_table(stream)
    assert (table.num_rows, table.column_names) == (0, ["key", "sha256", "urls"])
