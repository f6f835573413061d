"""Make the manifest: every input row, with the key it keeps for good.

Nothing is dropped: a row that cannot be used is in the manifest with its outcome, so counts always sum to the
number of input rows. Rows are parsed once, into temporary files (TMPDIR; about the size of the unpacked input), where
rows with equal URLs are found; then the Parquet file is written by columns. Memory does not grow with the rows.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.config import DatasetConfig
from tasks.errors import UserError, writing
from tasks.records import Outcome, Receipt, ShardRef, ShardResult, Stage, fingerprint
from tasks.rows.duplicates import DIGEST_BYTES, MOST_ROWS, FirstRows
from tasks.rows.read import Row, read_rows, resolve_rows, rows_identity
from tasks.storage.paths import manifest_path, manifest_receipt_path, split_folder
from tasks.storage.root import Root, Stopwatch, now

log = logging.getLogger(__name__)

MANIFEST_FORMAT = "manifest/1"
ROW_GROUP = 8192
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("key", "caption", "url", "image_key", "outcome", "detail")],
    metadata={"format": MANIFEST_FORMAT},
)
_PARSED = pa.schema([(name, pa.string()) for name in ("caption", "url", "outcome", "detail")])
_BATCH_ROWS = 65_536
_BATCH_CHARACTERS = 32_000_000  # Fewer rows make a batch where they are this long.
_SHARD_FILE = re.compile(r"(?:images|outcomes)-(\d+)\.(?:json|tar|parquet)|(\d+)\.journal")


@dataclass(frozen=True)
class ManifestRow:
    """One input row.

    `url` is a file name where pictures lie on disk. `image_key` is the key of the first row with the same URL, whose
    image serves both. `outcome` is "" for a row with a URL to fetch, else bad_row or bad_url; see `tasks.rows.read`. A
    bad row's caption is its text as far as it can be read. `detail` says why a row cannot be used; it decides nothing,
    and older manifests have none.
    """

    key: str
    caption: str
    url: str
    image_key: str
    outcome: str
    detail: str = ""

    @property
    def fetches(self) -> bool:
        """True where this row's own image is to be downloaded."""
        return not self.outcome and self.image_key == self.key


def make_manifest(root: Root, dataset: DatasetConfig, split: str, accept_changes: bool = False) -> ShardResult:
    """Read a split's rows as a stream, and publish its manifest.

    Receipt counts: rows, bad_row, bad_url and duplicate (good rows whose URL an earlier row has). A manifest of the
    same rows is left as it is, wherever they lie now.

    Args:
        root: where the manifest goes.
        dataset: says where the rows come from.
        split: one of its splits.
        accept_changes: replace a manifest of other rows though images of it were begun. The download makes the shards
            that changed anew; for those beyond the end of a shorter manifest see `drop_shards_beyond`.

    Raises:
        UserError: the input is missing, unreadable, empty, too long, or no row of it is a caption and a URL; or rows
            changed though images were begun. Nothing is written then.
    """
    watch = Stopwatch()
    if split not in dataset.splits:
        raise UserError(f"dataset {dataset.name} has no split {split!r}; it has {', '.join(sorted(dataset.splits))}")
    where = f"caption rows of {dataset.name}/{split}"
    source = resolve_rows(dataset.rows_config(split), split, where)
    identity = rows_identity(source, where)
    manifest_fingerprint = fingerprint({"format": MANIFEST_FORMAT, "dataset": dataset.name, "split": split, **identity})
    receipt_path = manifest_receipt_path(dataset.name, split)
    done = root.done(receipt_path, manifest_fingerprint)
    if done is not None:
        return ShardResult(receipt=done, skipped=True)

    path = manifest_path(dataset.name, split)
    with tempfile.TemporaryDirectory(prefix="manifest-") as folder, _Parsed(Path(folder)) as parsed:
        with writing(Path(folder)):
            parsed.read(read_rows(source, where), where)
        _check_changes(root, dataset.name, split, parsed, accept_changes)
        digest = root.publish(path, lambda target: _write(target, parsed.tables()))
    receipt = Receipt(
        stage=Stage.MANIFEST,
        dataset=dataset.name,
        split=split,
        shard=0,
        fingerprint=manifest_fingerprint,
        counts=parsed.counts,
        files={path.rsplit("/", 1)[-1]: digest},
        seconds=watch.seconds,
        created_at=now(),
    )
    root.publish_model(receipt_path, receipt)
    return ShardResult(receipt=receipt, skipped=False)


def list_shards(root: Root, dataset: DatasetConfig, split: str) -> list[ShardRef]:
    """The image shards of a split's manifest: `dataset.shard_size` rows each, the last one perhaps fewer."""
    rows = manifest_receipt(root, dataset.name, split).counts["rows"]
    shards = -(-rows // dataset.shard_size)
    return [ShardRef(dataset=dataset.name, split=split, shard=shard) for shard in range(shards)]


def drop_shards_beyond(root: Root, dataset: str, split: str, shards: int) -> None:
    """Remove image shards beyond a split's last one, left over when its rows became fewer.

    Receipts go first, so that at no moment one vouches for files that are gone.

    Args:
        root: where they are.
        dataset: its name.
        split: its name.
        shards: how many shards its manifest makes; see `list_shards`.
    """
    folder = split_folder(dataset, split)
    found = [f"{part}/{name}" for part in ("images", "journal") for name in root.names(f"{folder}/{part}")]
    beyond = [name for name in found if _shard_number(name) >= shards]
    if beyond:
        log.warning("%s/%s has %d shards: removing %d files of shards beyond them", dataset, split, shards, len(beyond))
    for name in sorted(beyond, key=lambda name: (not name.endswith(".json"), name)):
        root.remove(f"{folder}/{name}")


def manifest_receipt(root: Root, dataset: str, split: str) -> Receipt:
    """The manifest's receipt.

    Raises:
        UserError: there is no finished manifest.
    """
    path = manifest_receipt_path(dataset, split)
    receipt = root.read_model(path, Receipt)
    if receipt is None:
        raise UserError(f"{root.path(path)} is missing: {dataset}/{split} has no manifest; run: unicoder-vl download")
    return receipt


def read_manifest_shard(root: Root, ref: ShardRef, shard_size: int) -> list[ManifestRow]:
    """Read the manifest rows of one image shard, in order.

    Only the row groups that hold them are read.
    """
    start = ref.shard * shard_size
    with _open_manifest(root, ref.dataset, ref.split) as manifest:
        rows = manifest.metadata.num_rows
        if start >= rows:
            raise UserError(
                f"shard {ref} would begin at row {start}, but its manifest has {rows} rows; list shards anew"
            )
        stop = min(start + shard_size, rows)
        sizes = [manifest.metadata.row_group(group).num_rows for group in range(manifest.num_row_groups)]
        ends = np.cumsum(sizes)
        first, last = np.searchsorted(ends, [start, stop - 1], side="right")
        table = manifest.read_row_groups(range(first, last + 1), use_threads=False)
    offset = start - int(ends[first] - sizes[first])
    return [ManifestRow(*row) for row in _tuples(table.slice(offset, stop - start))]


def read_manifest(root: Root, dataset: str, split: str) -> Iterator[ManifestRow]:
    """Read a manifest's rows in order, one row group in memory at a time."""
    with _open_manifest(root, dataset, split) as manifest:
        for group in range(manifest.num_row_groups):
            for row in _tuples(manifest.read_row_group(group, use_threads=False)):
                yield ManifestRow(*row)


# --- parsing --------------------------------------------------------------------------------------------------------


class _Parsed:
    """Rows between input and manifest: parsed, counted, kept in temporary files, read again by columns.

    `counts` is that of the manifest's receipt.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "rows.arrow"
        self._first_rows = FirstRows(folder)
        self._firsts: Any = None
        self.counts = {"rows": 0, Outcome.BAD_ROW.value: 0, Outcome.BAD_URL.value: 0, Outcome.DUPLICATE.value: 0}

    def __enter__(self) -> _Parsed:
        return self

    def __exit__(self, *error: object) -> None:
        self._firsts = None  # The table maps a file of the folder, which is about to be removed.
        self._first_rows.close()

    def read(self, rows: Iterable[Row], where: str) -> None:
        """Read all rows.

        Raises:
            UserError: there are more than a key has digits for.
        """
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with self._path.open("wb") as file, pa.ipc.new_stream(file, _PARSED, options=options) as stream:
            for batch in _batches(rows):
                self._add(batch, stream)
                if self.counts["rows"] > MOST_ROWS:
                    raise UserError(f"{where} are more than {MOST_ROWS:,}; make several datasets or splits of them")
        self._firsts, self.counts[Outcome.DUPLICATE] = self._first_rows.resolve(self.counts["rows"])

    def _add(self, batch: list[Row], stream: Any) -> None:
        columns = list(zip(*batch, strict=True))
        stream.write_batch(pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=_PARSED))
        _, urls, outcomes, _ = columns
        good = [number for number, outcome in enumerate(outcomes) if not outcome]
        blake2b = hashlib.blake2b
        digests = b"".join(blake2b(urls[number].encode(), digest_size=DIGEST_BYTES).digest() for number in good)
        self._first_rows.add(np.array(good, np.int64) + self.counts["rows"], digests)
        for outcome in (Outcome.BAD_ROW.value, Outcome.BAD_URL.value):
            self.counts[outcome] += outcomes.count(outcome)
        self.counts["rows"] += len(batch)

    def tables(self) -> Iterator[Any]:
        """The manifest in order, some rows at a time."""
        start = 0
        with pa.OSFile(str(self._path)) as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                numbers = np.arange(start, start + batch.num_rows, dtype=np.int64)
                firsts = self._firsts[start : start + batch.num_rows].astype(np.int64)
                columns = {
                    "key": _keys(numbers),
                    "caption": batch["caption"],
                    "url": batch["url"],
                    "image_key": _keys(np.where(firsts == 0, numbers, firsts - 1)),
                    "outcome": batch["outcome"],
                    "detail": batch["detail"],
                }
                yield pa.table(columns, schema=_SCHEMA)
                start += batch.num_rows


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row[0]) + len(row[1])
        if len(batch) == _BATCH_ROWS or characters > _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _keys(numbers: Any) -> Any:
    import pyarrow.compute as pc  # It makes its functions on import; reading a manifest needs none.

    return pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0")


# --- rows that changed ----------------------------------------------------------------------------------------------


def _check_changes(root: Root, dataset: str, split: str, parsed: _Parsed, accept_changes: bool) -> None:
    """Raise UserError where images of other rows were begun, unless the change is accepted."""
    folder = split_folder(dataset, split)
    begun = root.names(f"{folder}/images") or root.names(f"{folder}/journal")
    if accept_changes or not begun or not root.exists(manifest_path(dataset, split)):
        return
    with _open_parquet(root, dataset, split) as manifest:
        rows_then, rows_now = manifest.metadata.num_rows, parsed.counts["rows"]
        old = (manifest.read_row_group(group, use_threads=False) for group in range(manifest.num_row_groups))
        differing = _first_difference(old, parsed.tables())
    if differing is not None:
        change = f"row {differing} is the first that differs"
    elif rows_now > rows_then:
        change = "rows were added at the end"
    elif rows_now < rows_then:
        change = "rows were cut at the end"
    else:
        return  # The same rows in another form.
    raise UserError(
        f"the rows of {dataset}/{split} changed since its images were begun: {rows_then:,} rows then, {rows_now:,} "
        f"now, {change}; give another --root or dataset name to keep both, or --accept-changes to download what changed"
    )


def _first_difference(old: Iterator[Any], new: Iterator[Any]) -> int | None:
    """Number of the first row that differs between two manifests, read in pieces; None within the shorter one."""
    import pyarrow.compute as pc

    done = 0
    ours, theirs = _SCHEMA.empty_table(), _SCHEMA.empty_table()
    while True:
        ours, theirs = ours or next(old, None), theirs or next(new, None)
        if ours is None or theirs is None:
            return None
        rows = min(ours.num_rows, theirs.num_rows)
        equal = pa.array(np.ones(rows, bool))
        for name in ("caption", "url", "outcome"):  # The keys follow from these.
            equal = pc.and_(equal, pc.equal(ours[name].slice(0, rows), theirs[name].slice(0, rows)))
        at = pc.index(equal, False).as_py()
        if at >= 0:
            return done + at
        done += rows
        ours, theirs = ours.slice(rows), theirs.slice(rows)


def _shard_number(name: str) -> int:
    """The number of a file's shard; -1 for a file that is not ours."""
    match = _SHARD_FILE.fullmatch(name.rsplit("/", 1)[-1])
    return int(match[1] or match[2]) if match else -1


# --- the Parquet file -----------------------------------------------------------------------------------------------


def _write(target: IO[bytes], tables: Iterable[Any]) -> None:
    # Only outcomes and details repeat: a dictionary of the others would be built to be thrown away.
    options = {"compression": "zstd", "use_dictionary": ["outcome", "detail"], "write_statistics": False}
    with pq.ParquetWriter(target, _SCHEMA, **options) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=ROW_GROUP)


def _tuples(table: Any) -> Iterator[tuple[str, ...]]:
    return zip(*(table[name].to_pylist() for name in _SCHEMA.names if name in table.column_names), strict=True)


@contextmanager
def _open_manifest(root: Root, dataset: str, split: str) -> Iterator[Any]:
    manifest_receipt(root, dataset, split)
    with _open_parquet(root, dataset, split) as manifest:
        yield manifest


@contextmanager
def _open_parquet(root: Root, dataset: str, split: str) -> Iterator[Any]:
    path = manifest_path(dataset, split)
    with root.open(path) as stream:
        try:
            manifest = pq.ParquetFile(stream)
        except pa.ArrowInvalid as error:
            raise UserError(
                f"{root.path(path)} is damaged ({error}); remove it and run: unicoder-vl download"
            ) from error
        found = (manifest.schema_arrow.metadata or {}).get(b"format", b"").decode()
        if found != MANIFEST_FORMAT:
            raise UserError(
                f"{root.path(path)} has format {found!r}, expected {MANIFEST_FORMAT!r}; run: unicoder-vl download"
            )
        yield manifest
