"""captions.parquet: every caption whose image arrived, made from the outcome tables and kept beside the shards.

A caption knows its image by key. Rows with the same URL share one image, so captions are not kept inside shards:
five captions of a picture would repeat its features five times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.config import DatasetConfig
from tasks.download.outcomes import read_outcome_columns
from tasks.errors import UserError
from tasks.made_from import CAPTIONS_FORMAT, captions_fingerprint
from tasks.records import Outcome, Receipt, ShardRef, ShardResult, Stage
from tasks.rows.manifest import ManifestRow, list_shards, manifest_receipt, read_manifest
from tasks.storage.paths import captions_path, captions_receipt_path, image_receipt_path
from tasks.storage.root import Root, Stopwatch, now

CAPTIONS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("caption_id", "image_key", "text", "split")],
    metadata={"format": CAPTIONS_FORMAT},
)
_WRITE_ROWS = 65_536
_CODES = {outcome: code for code, outcome in enumerate(Outcome)}
_OUTCOMES = tuple(Outcome)
_UNKNOWN = len(_OUTCOMES)
"""In the place of an outcome's code: the row is of a shard that is missing."""


def make_captions(root: Root, dataset: DatasetConfig, split: str, missing: Collection[int] = ()) -> ShardResult:
    """Publish a split's captions, once all of its image shards are there.

    Receipt counts: manifest rows per outcome, where a duplicate counts under the outcome of the row that fetched its
    image; they sum to the manifest's rows. `ok` is the number of captions. Rows of missing shards are not counted,
    and a duplicate of one of them counts as a duplicate: whether it has an image is not known.

    Args:
        root: where the image shards are.
        dataset: for its shard size.
        split: one of its splits.
        missing: shards to do without, whether or not some of their files are there. The captions are made anew when one
            of them is there.

    Raises:
        UserError: another image shard is missing or belongs to another manifest.
    """
    watch = Stopwatch()
    shards = [ref for ref in list_shards(root, dataset, split) if ref.shard not in missing]
    receipts = _shard_receipts(root, dataset, split, shards)
    wanted = captions_fingerprint(manifest_receipt(root, dataset.name, split), receipts, sorted(missing))
    receipt_path = captions_receipt_path(dataset.name, split)
    done = root.done(receipt_path, wanted)
    if done is not None:
        return ShardResult(receipt=done, skipped=True)

    counts: Counter[str] = Counter()
    rows = _arrived(root, dataset, split, missing, counts)
    path = captions_path(dataset.name, split)
    digest = root.publish(path, lambda stream: _write(stream, rows, split))
    receipt = Receipt(
        stage=Stage.DOWNLOAD,
        dataset=dataset.name,
        split=split,
        shard=0,
        fingerprint=wanted,
        counts=dict(sorted(counts.items())),
        files={path.rsplit("/", 1)[-1]: digest},
        seconds=watch.seconds,
        created_at=now(),
        missing=tuple(sorted(missing)),
    )
    root.publish_model(receipt_path, receipt)
    return ShardResult(receipt=receipt, skipped=False)


def _shard_receipts(root: Root, dataset: DatasetConfig, split: str, shards: Sequence[ShardRef]) -> list[Receipt]:
    found = [root.read_model(image_receipt_path(dataset.name, split, ref.shard), Receipt) for ref in shards]
    missing = [str(ref) for ref, receipt in zip(shards, found, strict=True) if receipt is None]
    if missing:
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UserError(
            f"{len(missing)} of {len(shards)} image shards are missing ({names}); run: unicoder-vl download"
        )
    return [receipt for receipt in found if receipt is not None]


def _arrived(
    root: Root, dataset: DatasetConfig, split: str, missing: Collection[int], counts: Counter[str]
) -> Iterator[ManifestRow]:
    """The rows with an image, in order; adds every row to `counts` under its image's outcome."""
    shards = list_shards(root, dataset, split)
    # One byte a row: a duplicate may point back to any earlier shard. A key is a row number.
    codes = bytearray()
    rows = read_manifest(root, dataset.name, split)
    for ref in shards:
        if ref.shard in missing:
            codes.extend(_UNKNOWN for _ in islice(rows, dataset.shard_size))
            continue
        for key, outcome in _outcomes(root, ref):
            row = next(rows, None)
            if row is None or row.key != key:
                raise _stale(ref)
            if outcome is Outcome.DUPLICATE:
                code = codes[int(row.image_key)]
                outcome = outcome if code == _UNKNOWN else _OUTCOMES[code]
            codes.append(_CODES[outcome])
            counts[outcome.value] += 1
            if outcome is Outcome.OK:
                yield row
    if next(rows, None) is not None:
        raise _stale(shards[-1])


def _stale(ref: ShardRef) -> UserError:
    return UserError(f"image shard {ref} was made from other rows than the manifest has now; run: unicoder-vl download")


def _outcomes(root: Root, ref: ShardRef) -> Iterator[tuple[str, Outcome]]:
    """Read key and outcome of every row of a shard's table."""
    table = read_outcome_columns(root, ref, ["key", "outcome"])
    for key, outcome in zip(table["key"].to_pylist(), table["outcome"].to_pylist(), strict=True):
        yield key, Outcome(outcome)


def _write(stream: IO[bytes], rows: Iterator[ManifestRow], split: str) -> None:
    with pq.ParquetWriter(stream, CAPTIONS_SCHEMA, compression="zstd") as writer:
        batch: list[ManifestRow] = []
        for row in rows:
            batch.append(row)
            if len(batch) == _WRITE_ROWS:
                writer.write_table(_table(batch, split))
                batch = []
        writer.write_table(_table(batch, split))


def _table(rows: Sequence[ManifestRow], split: str) -> Any:
    columns = {
        "caption_id": [row.key for row in rows],
        "image_key": [row.image_key for row in rows],
        "text": [row.caption for row in rows],
        "split": [split] * len(rows),
    }
    return pa.table(columns, schema=CAPTIONS_SCHEMA)
