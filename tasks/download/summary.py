"""The numbers of a download: a split's outcome tables, summed a few shards in memory at a time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tasks.download.outcomes import read_outcome_columns
from tasks.download.placeholders import (
    Placeholder,
    Placeholders,
    find_placeholders,
    publish_placeholders,
    repeated_prefixes,
)
from tasks.download.tally import UNREAD, Tally, joined
from tasks.records import Outcome, Record, ShardRef
from tasks.rows.manifest import manifest_receipt
from tasks.storage.logins import without_login
from tasks.storage.paths import split_folder
from tasks.storage.root import Root

MOST_HOSTS = 20
MOST_PLACEHOLDERS = 20

_BATCH_ROWS = 16_384
_SHARD_FILE = re.compile(r"(images|outcomes)-(\d{5,})\.(json|parquet)")
_COLUMNS = [
    "key",
    "url",
    "image_key",
    "outcome",
    "detail",
    "seconds",
    "http_status",
    "width",
    "height",
    "bytes",
    "sha256",
]


class OutcomeDetail(Record):
    """One outcome's most frequent raw detail, and the first row that has it; duplicates are left out."""

    outcome: Outcome
    detail: str
    urls: int = Field(description="URLs with this outcome and this very detail")
    example_url: str


class HostSummary(Record):
    """The URLs of one host. Rows that share a URL count once."""

    host: str
    urls: int
    ok: int
    failure: Outcome | None = Field(description="the most frequent failure; None where there is none")
    seconds: float = Field(description="time spent on its URLs, all added up")


class Spread(Record):
    """The 5%, 50% and 95% quantiles of a set of numbers."""

    low: int
    median: int
    high: int


class SplitSummary(Record):
    """The outcomes of one split's rows, as far as its image shards are finished."""

    dataset: str
    split: str
    rows: int = Field(description="of the manifest")
    rows_read: int = Field(description="of the finished image shards")
    shards: int = Field(description="finished image shards")
    shards_missing: int | None = Field(description="None where none is finished: their size is not known then")
    shard_size: int | None = Field(description="manifest rows per shard; None where no shard is finished")
    outcomes: dict[Outcome, int] = Field(
        description="rows by outcome; they sum to rows_read. A duplicate counts under the outcome of the row that "
        "fetched its image, and as a duplicate while that row's shard is missing"
    )
    success_rate: float = Field(description="share of rows_read that have an image; 0 where none was read")
    details: tuple[OutcomeDetail, ...]
    images: int = Field(description="pictures in the shards: rows that share a URL share one")
    image_bytes: int = Field(description="of all pictures as stored")
    short_side: Spread | None = Field(description="pixels as stored; None without pictures")
    long_side: Spread | None = Field(description="pixels as stored")
    http_statuses: dict[int, int] = Field(description="URLs by the HTTP status of their last answer")
    hosts: int = Field(description="different hosts; 0 for pictures on disk")
    failing_hosts: tuple[HostSummary, ...] = Field(description="those with the most failures, most first")
    slowest_hosts: tuple[HostSummary, ...] = Field(description="those that took the most time, most first")
    placeholders: tuple[Placeholder, ...] = Field(description="the largest groups of URLs with the same bytes")
    placeholder_groups: int
    placeholder_rows: int = Field(description="rows with such a picture; rows that share a URL count each")
    placeholders_path: str = Field(description="Parquet table of those rows: key, sha256, urls. Relative to the root")

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.split}"

    @property
    def ok(self) -> int:
        return self.outcomes.get(Outcome.OK, 0)


def summarize_download(root: Root, dataset: str, split: str) -> SplitSummary:
    """Sum up a split's outcome tables, and publish its placeholders.parquet.

    Memory: about 20 bytes per row, and the different hosts.

    Raises:
        UserError: there is no manifest, or an outcome table is not one or has rows that the manifest lacks.
    """
    rows = manifest_receipt(root, dataset, split).counts["rows"]
    shards = _finished_shards(root, dataset, split)
    size = _shard_size(root, shards)
    tally = Tally(codes=np.full(rows, UNREAD, np.uint8))
    for table in _batches(root, shards, _COLUMNS):
        tally.add(table, f"{dataset}/{split}")
    placeholders = _placeholders(root, shards, size, tally)
    path = publish_placeholders(root, dataset, split, placeholders)
    hosts = tally.hosts.merge()
    rows_read = int((tally.codes != UNREAD).sum())
    outcomes = tally.outcomes()
    return SplitSummary(
        dataset=dataset,
        split=split,
        rows=rows,
        rows_read=rows_read,
        shards=len(shards),
        shards_missing=-(-rows // size) - len(shards) if size else None,
        shard_size=size or None,
        outcomes=outcomes,
        success_rate=outcomes.get(Outcome.OK, 0) / max(rows_read, 1),
        details=_typical_details(tally.details.merge()),
        images=tally.images,
        image_bytes=tally.image_bytes,
        short_side=_spread(tally.short_sides),
        long_side=_spread(tally.long_sides),
        http_statuses=dict(sorted(tally.http_statuses.items())),
        hosts=len(pc.unique(hosts["host"])),
        failing_hosts=_top_hosts(hosts, "failed"),
        slowest_hosts=_top_hosts(hosts, "seconds"),
        placeholders=tuple(placeholders.groups[:MOST_PLACEHOLDERS]),
        placeholder_groups=len(placeholders.groups),
        placeholder_rows=len(placeholders.rows),
        placeholders_path=path,
    )


# --- reading --------------------------------------------------------------------------------------------------------


def _finished_shards(root: Root, dataset: str, split: str) -> list[ShardRef]:
    """The shards with a receipt and an outcome table, in order."""
    kinds: dict[int, set[str]] = {}
    for name in root.names(f"{split_folder(dataset, split)}/images"):
        match = _SHARD_FILE.fullmatch(name)
        if match:
            kinds.setdefault(int(match[2]), set()).add(f"{match[1]}.{match[3]}")
    finished = sorted(shard for shard, found in kinds.items() if found >= {"images.json", "outcomes.parquet"})
    return [ShardRef(dataset=dataset, split=split, shard=shard) for shard in finished]


def _shard_size(root: Root, shards: Sequence[ShardRef]) -> int:
    """Manifest rows per shard; 0 without shards.

    The first key of a shard is its number times the size.
    """
    if not shards:
        return 0
    keys = read_outcome_columns(root, shards[-1], ["key"])["key"]
    number = shards[-1].shard
    return int(keys[0].as_py()) // number if number else len(keys)


def _batches(root: Root, shards: Sequence[ShardRef], columns: Sequence[str]) -> Iterator[Any]:
    """The shards' tables, several joined to one: arrow's work per table costs more than that per row."""
    tables: list[Any] = []
    for number, ref in enumerate(shards, 1):
        tables.append(read_outcome_columns(root, ref, columns))
        if number == len(shards) or sum(len(table) for table in tables) >= _BATCH_ROWS:
            batch = pa.concat_tables(tables).combine_chunks()
            tables.clear()
            yield batch


# --- conclusions ----------------------------------------------------------------------------------------------------


def _placeholders(root: Root, shards: Sequence[ShardRef], size: int, tally: Tally) -> Placeholders:
    repeated = repeated_prefixes(np.concatenate([np.empty(0, np.uint64), *tally.digests]))
    wanted: set[int] = set()
    for digests, rows in zip(tally.digests, tally.digest_rows, strict=True):
        wanted.update((rows[np.isin(digests, repeated)] // size).tolist())
    concerned = [ref for ref in shards if ref.shard in wanted]
    tables = _batches(root, concerned, ["key", "url", "sha256"])
    return find_placeholders(tables, repeated, joined(tally.duplicates), joined(tally.originals))


def _typical_details(details: Any) -> tuple[OutcomeDetail, ...]:
    """The most frequent detail of each outcome, in the order of `Outcome`."""
    best: dict[str, OutcomeDetail] = {}
    for line in details.sort_by([("urls", "descending"), ("detail", "ascending")]).to_pylist():
        outcome = line["outcome"]
        if outcome not in best:
            best[outcome] = OutcomeDetail(
                outcome=Outcome(outcome),
                detail=line["detail"],
                urls=line["urls"],
                example_url=without_login(line["url"]),
            )
    return tuple(best[outcome.value] for outcome in Outcome if outcome.value in best)


def _spread(counts: Counter[int]) -> Spread | None:
    if not counts:
        return None
    values = np.array(sorted(counts))
    up_to = np.cumsum([counts[value] for value in values.tolist()])

    def reached(share: float) -> int:
        return int(values[np.searchsorted(up_to, share * up_to[-1])])

    return Spread(low=reached(0.05), median=reached(0.5), high=reached(0.95))


def _top_hosts(groups: Any, by: str) -> tuple[HostSummary, ...]:
    """The MOST_HOSTS hosts with the most of `by`, "failed" or "seconds"; none with 0."""
    ok = pc.equal(groups["outcome"], Outcome.OK.value)
    urls = groups["urls"]
    failed = pc.if_else(ok, 0, urls)
    table = groups.append_column("failed", failed).append_column("ok", pc.subtract(urls, failed))
    sums = [(name, "sum") for name in ("urls", "failed", "ok", "seconds")]
    hosts = table.group_by("host").aggregate(sums).filter(pc.greater(pc.field(f"{by}_sum"), 0))
    hosts = hosts.sort_by([(f"{by}_sum", "descending"), ("host", "ascending")]).slice(0, MOST_HOSTS)
    kinds = table.filter(pc.and_(pc.invert(ok), pc.is_in(table["host"], value_set=hosts["host"].combine_chunks())))
    # Rising, so that the largest count is what a host keeps.
    failures = {
        line["host"]: line["outcome"]
        for line in kinds.sort_by([("urls", "ascending"), ("outcome", "descending")]).to_pylist()
    }
    return tuple(
        HostSummary(
            host=line["host"],
            urls=line["urls_sum"],
            ok=line["ok_sum"],
            failure=Outcome(failures[line["host"]]) if line["host"] in failures else None,
            seconds=round(line["seconds_sum"], 1),
        )
        for line in hosts.to_pylist()
    )
