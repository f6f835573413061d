"""The page of a download: right numbers, nothing foreign runs or is fetched, and it stands alone."""

from __future__ import annotations

import hashlib
import io
import re
import uuid
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from feature_extraction.samples.tars import write_tar
from tasks.download.outcomes import RowOutcome, write_outcomes
from tasks.download.page import DownloadSummary, make_download_report
from tasks.records import Outcome, Receipt, Stage
from tasks.storage.paths import image_receipt_path, image_shard_path, manifest_receipt_path, outcomes_path
from tasks.storage.root import Root, now

EVIL = '<script>alert("x")</script>'
SHARD_SIZE = 20


class Page(HTMLParser):
    """Checks that tags nest, and remembers what a browser would fetch, run or show."""

    VOID = frozenset({"meta", "br", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"href", "src", "xlink:href"}:
                (self.images if tag == "img" else self.links).append(value or "")
        if tag == "tr":
            self.cells.append([])
        elif tag in {"td", "th"}:
            self.cells[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data

    def row(self, first: str) -> list[str]:
        return next(cells for cells in self.cells if cells and cells[0] == first)


def picture(row: int, url: str, content: str) -> RowOutcome:
    return RowOutcome(
        f"{row:09d}",
        url,
        f"{row:09d}",
        Outcome.OK,
        attempts=1,
        http_status=200,
        width=640,
        height=480,
        bytes=50_000,
        sha256=hashlib.sha256(content.encode()).hexdigest(),
    )


def lost(row: int, url: str, outcome: Outcome, detail: str, status: int | None = None) -> RowOutcome:
    return RowOutcome(f"{row:09d}", url, f"{row:09d}", outcome, detail, attempts=1, http_status=status, seconds=2.0)


def publish_split(root: Root, split: str, rows: Sequence[RowOutcome], shards: int | None = None) -> None:
    """Publish the first `shards` shards of a split, or all; tars hold teal pictures."""
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
    for shard, start in list(enumerate(range(0, len(rows), SHARD_SIZE)))[:shards]:
        part = rows[start : start + SHARD_SIZE]
        members = [(f"{row.key}.jpg", teal(640, 480)) for row in part if row.outcome is Outcome.OK]
        root.publish(image_shard_path("web", split, shard), lambda stream, members=members: write_tar(stream, members))
        root.publish(outcomes_path("web", split, shard), lambda stream, part=part: write_outcomes(stream, part))
        root.publish_model(image_receipt_path("web", split, shard), receipt)


def teal(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(stream, "JPEG")
    return stream.getvalue()


def train_rows() -> list[RowOutcome]:
    """24 pictures, 12 of them one placeholder; 4 time-outs and 2 missing, of one host."""
    rows = [picture(row, f"https://good.org/{row}", str(row) if row % 2 else "gone") for row in range(24)]
    rows += [lost(row, f"http://bad.org/{row}", Outcome.TIMEOUT, "no answer in time") for row in range(24, 28)]
    return rows + [lost(row, f"http://bad.org/{row}", Outcome.NOT_FOUND, "HTTP 404", 404) for row in (28, 29)]


@pytest.fixture(params=["disk", "object store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    return Root(str(tmp_path / "root") if request.param == "disk" else f"memory://{uuid.uuid4().hex}")


def read_page(root: Root) -> Page:
    return Page(root.read_bytes("download.html").decode())


def test_page_says_what_became_of_the_rows(root: Root) -> None:
    publish_split(root, "train", train_rows())
    made = make_download_report(root, [("web", "train")])
    page = read_page(root)
    assert made.page == root.path("download.html")
    assert "24 of 30 rows have an image, 80.0%" in page.text
    assert page.row("ok")[1:4] == ["24", "80.00%", "–"]
    assert page.row("timeout")[1:] == ["4", "13.33%", "yes", "no answer in time", "http://bad.org/24"]
    assert page.row("not_found")[1:] == ["2", "6.67%", "no", "HTTP 404", "http://bad.org/28"]
    assert page.row("bad.org") == ["bad.org", "6", "0", "0.00%", "timeout", "12", "2.0"]
    assert page.row("short side") == ["short side", "480", "480", "480"]
    assert "24 pictures, 1.2 MB in all, 50.0 kB on average" in page.text
    assert "404" in page.text and "2 (7.69%)" in page.text  # of 26 answers


def test_summary_for_programs_says_the_same(root: Root) -> None:
    publish_split(root, "train", train_rows())
    made = make_download_report(root, [("web", "train")])
    assert root.read_model("download.json", DownloadSummary) == made
    assert made.splits[0].outcomes == {Outcome.OK: 24, Outcome.TIMEOUT: 4, Outcome.NOT_FOUND: 2}


def test_bars_tell_what_may_pass_from_what_is_final(root: Root) -> None:
    publish_split(root, "train", train_rows())
    make_download_report(root, [("web", "train")])
    html = root.read_bytes("download.html").decode()
    strip, chart = re.findall(r"<svg.*?</svg>", html, re.DOTALL)[:2]
    assert re.findall(r'class="bar (s\d)" x="([\d.]+)"', strip) == [("s2", "0.00"), ("s1", "288.00"), ("s0", "336.00")]
    assert re.findall(r'>(timeout|not_found)<.*?class="bar (s\d)"', chart, re.DOTALL) == [
        ("timeout", "s1"),
        ("not_found", "s0"),
    ]


def test_command_that_retries_is_given_whole(root: Root) -> None:
    publish_split(root, "train", train_rows())
    make_download_report(root, [("web", "train")], options="--recipe cc3m --root 'my data'")
    page = read_page(root)
    assert "4 rows ended in a way that may pass (timeout)" in page.text
    assert "unicoder-vl download --only-failed --recipe cc3m --root 'my data'" in page.text
    make_download_report(root, [("web", "train")])
    assert f"unicoder-vl download --only-failed --root {root.uri}" in read_page(root).text


def test_nothing_to_retry_means_no_command(root: Root) -> None:
    publish_split(root, "train", [row for row in train_rows() if row.outcome is Outcome.OK])
    make_download_report(root, [("web", "train")])
    assert "--only-failed" not in read_page(root).text


def test_placeholders_are_shown_with_a_small_picture(root: Root) -> None:
    publish_split(root, "train", train_rows())
    make_download_report(root, [("web", "train")])
    page = read_page(root)
    digest = hashlib.sha256(b"gone").hexdigest()
    assert page.row("")[1:] == ["12", "1", "000000000", "https://good.org/0", digest]
    assert "12 rows (40.00%). They are kept." in page.text
    assert "datasets/web/train/placeholders.parquet" in page.text
    (image,) = page.images
    assert image.startswith("data:image/jpeg;base64,") and len(image) < 4000


def test_placeholder_whose_shard_is_gone_is_still_listed(root: Root) -> None:
    publish_split(root, "train", train_rows())
    root.remove(image_shard_path("web", "train", 0))
    make_download_report(root, [("web", "train")])
    page = read_page(root)
    assert page.row("not here")[1] == "12"
    assert page.images == []


def test_text_from_the_web_stays_text(root: Root) -> None:
    evil_url = f"http://h.org/{EVIL}?" + "x" * 3000
    rows = [lost(row, evil_url, Outcome.TLS, EVIL) for row in range(2)]
    rows += [picture(row, f"http://{EVIL.replace('/', '')}/{row}", "same") for row in range(2, 13)]
    publish_split(root, "train", rows)
    make_download_report(root, [("web", "train")])
    page = read_page(root)
    assert "script" not in page.tags and "a" not in page.tags
    assert EVIL in page.row("tls")[4]
    assert len(page.row("tls")[5]) == 201  # Cut, and marked as cut.


def test_logins_in_urls_are_not_shown(root: Root) -> None:
    signed = "http://me:secret@h.org/{}?X-Amz-Signature=secret"
    lost_rows = [lost(row, signed.format(row), Outcome.TLS, "certificate") for row in range(2)]
    same = [picture(row, f"http://me:secret@g{row}.org/{row}", "same") for row in range(2, 13)]
    publish_split(root, "train", [*lost_rows, *same])
    make_download_report(root, [("web", "train")])
    assert read_page(root).row("tls")[5] == "http://h.org/0?X-Amz-Signature=..."
    for name in ("download.html", "download.json"):
        assert b"g2.org/2" in root.read_bytes(name) and b"secret" not in root.read_bytes(name)


def test_page_fetches_nothing(root: Root) -> None:
    publish_split(root, "train", train_rows())
    make_download_report(root, [("web", "train")])
    assert read_page(root).links == []


def test_missing_shards_are_named(root: Root) -> None:
    publish_split(root, "train", train_rows(), shards=1)
    publish_split(root, "val", train_rows(), shards=0)
    made = make_download_report(root, [("web", "train"), ("web", "val")])
    page = read_page(root)
    assert "20 of 20 rows have an image, 100.0%" in page.text
    assert "1 of 2 shards are missing: their 10 of 30 rows are not in these numbers" in page.text
    assert "30 rows; no image shard is finished yet" in page.text
    assert page.row("web/train") == ["web/train", "30", "20", "20", "100.00%", "20", "1.0 MB", "1"]
    assert page.row("web/val") == ["web/val", "30", "0", "0", "–", "0", "0 bytes", "–"]
    assert [split.shards_missing for split in made.splits] == [1, None]


def test_pictures_on_disk_have_neither_hosts_nor_answers(root: Root) -> None:
    rows = [lost(0, "val2014/a.jpg", Outcome.NOT_FOUND, "no such file")]
    publish_split(root, "train", rows)
    make_download_report(root, [("web", "train")])
    text = read_page(root).text
    assert "Hosts" not in text and "HTTP status" not in text
    assert "0 of 1 rows have an image, 0.0%" in text


def test_page_of_no_splits_says_so(root: Root) -> None:
    assert make_download_report(root, []).splits == ()
    assert "No split was asked for" in read_page(root).text
