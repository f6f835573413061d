"""Dataset TSV -> the manifest: every input row, with the key it keeps for good.

The input is what Google publishes: no header, no quoting, `caption TAB url`. Quotes are ordinary characters, and the
row is split at its last tab, since a URL holds none and a caption may. Nothing is dropped: a row that cannot be used
stands in the manifest with its outcome, so counts always sum to the number of input rows.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.config import DatasetConfig
from tasks.errors import UserError
from tasks.records import Outcome, Receipt, ShardRef, ShardResult, Stage, fingerprint
from tasks.storage import Root, Stopwatch, manifest_path, manifest_receipt_path, now

MANIFEST_FORMAT = "manifest/1"
ROW_GROUP = 65_536
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("key", "caption", "url", "image_key", "outcome")],
    metadata={"format": MANIFEST_FORMAT},
)
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.-]+(?:[/?#]|\Z)")
_EXPECTED = "expected caption TAB url in every row, without header or quoting"


@dataclass(frozen=True)
class ManifestRow:
    """One input row.

    `image_key` is the key of the first row with the same URL, whose image serves both. `outcome` is "" for a row
    with a URL to fetch, else bad_row (not UTF-8, no tab, or an empty caption) or bad_url (not http or https, or no
    host). A bad row's caption is its text as far as it can be read.
    """

    key: str
    caption: str
    url: str
    image_key: str
    outcome: str

    @property
    def fetches(self) -> bool:
        """True where this row's own image is to be downloaded."""
        return not self.outcome and self.image_key == self.key


def make_manifest(root: Root, dataset: DatasetConfig, split: str) -> ShardResult:
    """Read a split's rows, streaming, and publish its manifest.

    Receipt counts: rows, bad_row, bad_url and duplicate (good rows whose URL an earlier row has). A manifest of the
    same rows is left as it is, wherever they lie now. Memory grows only with the number of different URLs.

    Raises:
        UserError: the input is missing, unreadable, empty, or no row of it is a caption and a URL.
            Nothing is written then.
    """
    watch = Stopwatch()
    uri = _rows_uri(dataset, split)
    content = _sha256(uri)
    stamp = fingerprint({"format": MANIFEST_FORMAT, "dataset": dataset.name, "split": split, "rows": content})
    receipt_path = manifest_receipt_path(dataset.name, split)
    done = root.done(receipt_path, stamp)
    if done is not None:
        return ShardResult(receipt=done, skipped=True)

    counts = {"rows": 0, Outcome.BAD_ROW.value: 0, Outcome.BAD_URL.value: 0, Outcome.DUPLICATE.value: 0}
    with _open_rows(uri) as stream:
        rows = _number(_lines(stream, uri), counts)
        path = manifest_path(dataset.name, split)
        digest = root.publish(path, lambda target: _write(target, rows, counts, uri))
    receipt = Receipt(
        stage=Stage.MANIFEST,
        dataset=dataset.name,
        split=split,
        shard=0,
        fingerprint=stamp,
        counts=counts,
        files={path.rsplit("/", 1)[-1]: digest},
        seconds=watch.seconds,
        created_at=now(),
    )
    root.publish_model(receipt_path, receipt)
    return ShardResult(receipt=receipt, skipped=False)


def list_shards(root: Root, dataset: DatasetConfig, split: str) -> list[ShardRef]:
    """The image shards that a split's manifest makes: `dataset.shard_size` rows each, the last one perhaps fewer."""
    rows = manifest_receipt(root, dataset.name, split).counts["rows"]
    shards = -(-rows // dataset.shard_size)
    return [ShardRef(dataset=dataset.name, split=split, shard=shard) for shard in range(shards)]


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
    """The manifest rows of one image shard, in order, reading only the row groups that hold them."""
    start = ref.shard * shard_size
    with _open_manifest(root, ref.dataset, ref.split) as manifest:
        rows = manifest.metadata.num_rows
        if start >= rows:
            raise UserError(
                f"shard {ref} would begin at row {start}, but its manifest has {rows} rows; list shards anew"
            )
        stop = min(start + shard_size, rows)
        first_group, last_group = start // ROW_GROUP, (stop - 1) // ROW_GROUP
        table = manifest.read_row_groups(range(first_group, last_group + 1))
    offset = start - first_group * ROW_GROUP
    return [ManifestRow(**row) for row in table.slice(offset, stop - start).to_pylist()]


def read_manifest(root: Root, dataset: str, split: str) -> Iterator[ManifestRow]:
    """All rows of a manifest, in order, one row group in memory at a time."""
    with _open_manifest(root, dataset, split) as manifest:
        for group in range(manifest.num_row_groups):
            for row in manifest.read_row_group(group).to_pylist():
                yield ManifestRow(**row)


# --- reading the input ----------------------------------------------------------------------------------------------


def _rows_uri(dataset: DatasetConfig, split: str) -> str:
    if split not in dataset.splits:
        raise UserError(f"dataset {dataset.name} has no split {split!r}; it has {', '.join(sorted(dataset.splits))}")
    return dataset.splits[split]


@contextmanager
def _open_rows(uri: str) -> Iterator[IO[bytes]]:
    """The bytes of the rows, unpacked."""
    try:
        opened = fsspec.open(uri, "rb").open()
    except FileNotFoundError as error:
        raise UserError(f"caption rows not found: {uri}; give the path or URI of a TSV file, {_EXPECTED}") from error
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"caption rows cannot be read: {uri} ({error}); give a readable TSV file") from error
    with opened as stream:
        if uri.endswith(".gz"):
            yield cast(IO[bytes], gzip.GzipFile(fileobj=stream))
        else:
            yield stream


@contextmanager
def _read_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"caption rows cannot be read to the end: {uri} ({error}); fetch the file again") from error


def _lines(stream: IO[bytes], uri: str) -> Iterator[bytes]:
    """Rows without their line ends. Only reading is guarded: what goes wrong in our caller is not the input's fault."""
    with _read_errors(uri):
        for number, line in enumerate(stream):
            row = line.removesuffix(b"\n").removesuffix(b"\r")
            yield row.removeprefix(codecs.BOM_UTF8) if number == 0 else row


def _sha256(uri: str) -> str:
    """Digest of the unpacked rows: packing them or moving the file makes no new manifest."""
    digest = hashlib.sha256()
    empty = True
    with _open_rows(uri) as stream, _read_errors(uri):
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            empty = False
    if empty:
        raise UserError(f"caption rows are empty: {uri}; {_EXPECTED}")
    return digest.hexdigest()


def _number(lines: Iterable[bytes], counts: dict[str, int]) -> Iterator[ManifestRow]:
    """Give every line its key and its outcome, and count them into `counts`."""
    first_row: dict[bytes, int] = {}  # digest of a URL -> number of the first row that has it
    for number, line in enumerate(lines):
        caption, url, outcome = _parse(line)
        first = number
        if outcome:
            counts[outcome] += 1
        else:
            first = first_row.setdefault(hashlib.blake2b(url.encode(), digest_size=16).digest(), number)
            counts[Outcome.DUPLICATE] += first != number
        counts["rows"] += 1
        yield ManifestRow(f"{number:09d}", caption, url, f"{first:09d}", outcome)


def _parse(line: bytes) -> tuple[str, str, str]:
    """Caption, URL and outcome of one line."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return line.decode(errors="replace"), "", Outcome.BAD_ROW.value
    caption, tab, url = text.rpartition("\t")
    if not tab or not caption.strip():
        return caption if tab else text, url.strip() if tab else "", Outcome.BAD_ROW.value
    url = url.strip()
    return caption, url, "" if is_web_url(url) else Outcome.BAD_URL.value


def is_web_url(url: str) -> bool:
    """True for http and https URLs that name a host, and a port only in digits."""
    if _PLAIN_URL.match(url):
        return True  # Nearly all of them, at a tenth of the cost; urlsplit decides the rest.
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0


# --- the Parquet file -----------------------------------------------------------------------------------------------


def _write(target: IO[bytes], rows: Iterable[ManifestRow], counts: dict[str, int], uri: str) -> None:
    with pq.ParquetWriter(target, _SCHEMA, compression="zstd") as writer:
        group: list[ManifestRow] = []
        for row in rows:
            group.append(row)
            if len(group) == ROW_GROUP:
                writer.write_table(_table(group), row_group_size=ROW_GROUP)
                group = []
        if group:
            writer.write_table(_table(group), row_group_size=ROW_GROUP)
    if counts[Outcome.BAD_ROW] == counts["rows"]:
        raise UserError(f"no row of {uri} is a caption and a URL; {_EXPECTED}")


def _table(rows: list[ManifestRow]) -> Any:
    return pa.table({name: [getattr(row, name) for row in rows] for name in _SCHEMA.names}, schema=_SCHEMA)


@contextmanager
def _open_manifest(root: Root, dataset: str, split: str) -> Iterator[Any]:
    path = manifest_path(dataset, split)
    manifest_receipt(root, dataset, split)
    with root.open(path) as stream, pq.ParquetFile(stream) as manifest:
        found = (manifest.schema_arrow.metadata or {}).get(b"format", b"").decode()
        if found != MANIFEST_FORMAT:
            raise UserError(
                f"{root.path(path)} has format {found!r}, expected {MANIFEST_FORMAT!r}; run: unicoder-vl download"
            )
        yield manifest
