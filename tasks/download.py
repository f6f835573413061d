"""Caption rows -> one image shard, its table of outcomes, and its receipt.

A failed URL is data: a row of the outcome table. A full disk, a bug or an interrupt is an error: it stops the shard,
and nothing of it stands under a final name. Requests finish in any order; the shard is written in key order, so its
bytes depend only on what the servers sent.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, astuple, dataclass, replace
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from feature_extraction.samples import IMAGE_FORMAT, ImageSample, encode_image, write_tar
from tasks.config import DatasetConfig, DownloadConfig
from tasks.fetch import Fetcher
from tasks.images import PictureError, accept_picture
from tasks.manifest import ManifestRow, read_manifest_shard
from tasks.records import Outcome, Receipt, ShardRef, ShardResult, Stage, fingerprint
from tasks.storage import Root, Stopwatch, image_receipt_path, image_shard_path, now, outcomes_path

OUTCOMES_FORMAT = "outcomes/1"

# The settings that decide which images a shard holds and what their bytes are. The others (threads, time limits,
# retries, user agent, success floor) decide how the work is done: changing one makes no shard stale.
RESULT_SETTINGS = frozenset(
    {
        "max_bytes",
        "max_redirects",
        "max_pixels",
        "min_side",
        "short_side",
        "jpeg_quality",
        "allow_private_addresses",
    }
)

# Decoded pictures are the largest thing in memory: as many at once as there are cores, whatever the thread count.
_DECODING = threading.BoundedSemaphore(max(2, os.cpu_count() or 1))


@dataclass(frozen=True)
class RowOutcome:
    """One line of a shard's outcome table; there is one for every manifest row, in key order.

    `attempts` is 0 where nothing was requested. `http_status` is that of the last answer. `width` and `height` are
    those of the stored image in pixels, `sha256` is of the bytes received; both only where the outcome is ok.
    """

    key: str
    url: str
    image_key: str
    outcome: Outcome
    detail: str = ""
    attempts: int = 0
    http_status: int | None = None
    seconds: float = 0.0
    width: int | None = None
    height: int | None = None
    sha256: str | None = None


_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("url", pa.string()),
        ("image_key", pa.string()),
        ("outcome", pa.string()),
        ("detail", pa.string()),
        ("attempts", pa.int32()),
        ("http_status", pa.int32()),
        ("seconds", pa.float32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
    ],
    metadata={"format": OUTCOMES_FORMAT},
)


def download_shard(
    root: Root,
    dataset: DatasetConfig,
    ref: ShardRef,
    config: DownloadConfig,
    on_progress: Callable[[int, int], None] | None = None,
) -> ShardResult:
    """Fetch the images of one shard's manifest rows and publish them, unless that was done before.

    Args:
        root: where the manifest lies and the shard goes.
        dataset: for its shard size.
        ref: which shard; see `manifest.list_shards`.
        config: limits, and what an image must be.
        on_progress: called in this thread after each URL with the number finished and the number to fetch.

    Returns:
        The receipt: counts per outcome over all manifest rows of the shard (they sum to its rows), and the digests
        of the tar and of the outcome table.

    Raises:
        UserError: there is no manifest, or it has no such shard.
    """
    watch = Stopwatch()
    rows = read_manifest_shard(root, ref, dataset.shard_size)
    stamp = _fingerprint(rows, config)
    receipt_path = image_receipt_path(ref.dataset, ref.split, ref.shard)
    done = root.done(receipt_path, stamp)
    if done is not None:
        return ShardResult(receipt=done, skipped=True)

    tar_path = image_shard_path(ref.dataset, ref.split, ref.shard)
    table_path = outcomes_path(ref.dataset, ref.split, ref.shard)
    with tempfile.TemporaryFile() as file:
        spool = _Spool(file)
        fetched = _fetch_rows([row for row in rows if row.fetches], config, spool, on_progress)
        outcomes = [fetched[row.key] if row.fetches else _unfetched(row) for row in rows]
        tar_digest = root.publish(tar_path, lambda stream: write_tar(stream, _members(rows, outcomes, spool)))
    table_digest = root.publish(table_path, lambda stream: _write_table(stream, outcomes))
    receipt = Receipt(
        stage=Stage.DOWNLOAD,
        dataset=ref.dataset,
        split=ref.split,
        shard=ref.shard,
        fingerprint=stamp,
        counts=dict(sorted(Counter(outcome.outcome.value for outcome in outcomes).items())),
        files={tar_path.rsplit("/", 1)[-1]: tar_digest, table_path.rsplit("/", 1)[-1]: table_digest},
        seconds=watch.seconds,
        created_at=now(),
    )
    root.publish_model(receipt_path, receipt)
    return ShardResult(receipt=receipt, skipped=False)


def _fingerprint(rows: Sequence[ManifestRow], config: DownloadConfig) -> str:
    content = hashlib.sha256()
    for row in rows:
        content.update(repr(astuple(row)).encode())
    settings = config.model_dump(mode="json", include=set(RESULT_SETTINGS))
    formats = [IMAGE_FORMAT, OUTCOMES_FORMAT]
    return fingerprint({"formats": formats, "settings": settings, "rows": content.hexdigest()})


# --- fetching -------------------------------------------------------------------------------------------------------


class _Spool:
    """Accepted JPEGs in a temporary file, so that a shard of large ones does not fill the memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._where: dict[str, tuple[int, int]] = {}
        self._end = 0

    def put(self, key: str, jpeg: bytes) -> None:
        self._file.write(jpeg)
        self._where[key] = (self._end, len(jpeg))
        self._end += len(jpeg)

    def get(self, key: str) -> bytes:
        offset, length = self._where[key]
        self._file.seek(offset)
        return self._file.read(length)


def _fetch_rows(
    rows: Sequence[ManifestRow],
    config: DownloadConfig,
    spool: _Spool,
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, RowOutcome]:
    """Fetch every row's URL; the outcome of each by key. Accepted JPEGs go to the spool."""
    outcomes: dict[str, RowOutcome] = {}
    if not rows:
        return outcomes
    stop = threading.Event()
    fetcher = Fetcher(config)
    pool = ThreadPoolExecutor(min(config.threads, len(rows)), thread_name_prefix="fetch")
    try:
        # No list of futures is kept: each is freed with its JPEG once it has been spooled.
        for future in as_completed(pool.submit(_fetch_row, row, fetcher, config, stop) for row in rows):
            outcome, jpeg = future.result()
            outcomes[outcome.key] = outcome
            if jpeg is not None:
                spool.put(outcome.key, jpeg)
            del future, jpeg
            if on_progress is not None:
                on_progress(len(outcomes), len(rows))
    finally:
        stop.set()  # After an error or an interrupt, nobody waits out a back-off.
        pool.shutdown(wait=True, cancel_futures=True)
        fetcher.close()
    return outcomes


def _fetch_row(
    row: ManifestRow, fetcher: Fetcher, config: DownloadConfig, stop: threading.Event
) -> tuple[RowOutcome, bytes | None]:
    """One row's outcome, and its JPEG where that is ok."""
    try:
        fetched = fetcher.fetch(row.url, pause=stop.wait)
        base = RowOutcome(
            key=row.key,
            url=row.url,
            image_key=row.image_key,
            outcome=fetched.outcome,
            detail=fetched.detail,
            attempts=fetched.attempts,
            http_status=fetched.status,
            seconds=fetched.seconds,
        )
        if fetched.body is None:
            return base, None
        try:
            with _DECODING:
                jpeg, (width, height) = accept_picture(fetched.body, config)
        except PictureError as error:
            return replace(base, outcome=error.outcome, detail=error.detail), None
        digest = hashlib.sha256(fetched.body).hexdigest()
        return replace(base, width=width, height=height, sha256=digest), jpeg
    except Exception as error:
        error.add_note(f"while fetching key {row.key}: {row.url}")
        raise


def _unfetched(row: ManifestRow) -> RowOutcome:
    """The outcome of a row for which nothing is requested."""
    if row.outcome:
        return RowOutcome(row.key, row.url, row.image_key, Outcome(row.outcome))
    return RowOutcome(row.key, row.url, row.image_key, Outcome.DUPLICATE, f"same URL as {row.image_key}")


# --- writing --------------------------------------------------------------------------------------------------------


def _members(rows: Sequence[ManifestRow], outcomes: Sequence[RowOutcome], spool: _Spool) -> Iterator[tuple[str, bytes]]:
    for row, outcome in zip(rows, outcomes, strict=True):
        if outcome.outcome is Outcome.OK:
            assert outcome.width is not None
            assert outcome.height is not None
            assert outcome.sha256 is not None
            size = (outcome.width, outcome.height)
            yield from encode_image(
                ImageSample(row.key, row.caption, row.url, size, outcome.sha256, spool.get(row.key))
            )


def _write_table(stream: IO[bytes], outcomes: Sequence[RowOutcome]) -> None:
    table = pa.Table.from_pylist([asdict(outcome) for outcome in outcomes], schema=_SCHEMA)
    pq.write_table(table, stream, compression="zstd")
