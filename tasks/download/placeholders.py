"""Placeholder pictures: the same bytes behind many URLs, mostly a host's "image not available".

They are downloaded and kept like any picture, and their captions are wrong. What is found here is reported, and
listed in ROOT/datasets/DATASET/SPLIT/placeholders.parquet, so that whoever wants to can drop them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from pydantic import Field

from feature_extraction.samples.tars import find_in_tar
from tasks.records import Record
from tasks.storage.logins import without_login
from tasks.storage.paths import image_shard_path, split_folder
from tasks.storage.root import Root

MIN_URLS = 10
"""Pictures behind fewer URLs than this are not called placeholders: people do post a picture in several places."""

PLACEHOLDERS_FORMAT = "placeholders/1"
_SCHEMA = pa.schema(
    [("key", pa.string()), ("sha256", pa.string()), ("urls", pa.int64())], metadata={"format": PLACEHOLDERS_FORMAT}
)
_HOST = r"^(?i:https?)://(?:[^/?#]*@)?(?P<host>\[[^\]/?#]*\]|[^/?#:]+)"
_FOUND = pa.schema([(name, pa.string()) for name in ("key", "url", "host", "sha256")])

Rows = npt.NDArray[np.int64]
Prefixes = npt.NDArray[np.uint64]


class Placeholder(Record):
    """One picture behind many URLs."""

    sha256: str = Field(description="of the bytes received")
    urls: int = Field(description="different URLs that gave it, at least MIN_URLS")
    hosts: int = Field(description="different hosts of those URLs; 0 for pictures on disk")
    key: str = Field(description="the first row that has it; its JPEG lies in that row's image shard")
    url: str = Field(description="that row's URL, without a login")


@dataclass(frozen=True)
class Placeholders:
    """All placeholders of a split, most URLs first, and the rows with one, ascending.

    `group_of_row[i]` says which of `groups` the row `rows[i]` has. Rows that share a URL are all among them.
    """

    groups: Sequence[Placeholder]
    rows: Rows
    group_of_row: Rows


def placeholders_path(dataset: str, split: str) -> str:
    return f"{split_folder(dataset, split)}/placeholders.parquet"


def digest_prefixes(sha256: Any) -> Prefixes:
    """The first eight bytes of hex digests, as numbers.

    The pyarrow column has no nulls.
    """
    digits = pc.utf8_slice_codeunits(sha256, 0, 16).to_pylist()
    return np.frombuffer(bytes.fromhex("".join(digits)), dtype=">u8").astype(np.uint64)


def repeated_prefixes(prefixes: Prefixes) -> Prefixes:
    """The values that occur at least MIN_URLS times, ascending."""
    ordered = np.sort(prefixes)
    starts = ordered[: max(0, len(ordered) - MIN_URLS + 1)]
    return np.unique(starts[starts == ordered[MIN_URLS - 1 :]])


def find_placeholders(tables: Iterable[Any], repeated: Prefixes, duplicates: Rows, originals: Rows) -> Placeholders:
    """Group the rows whose pictures have the same bytes.

    Args:
        tables: pyarrow tables with the columns key, url and sha256 (null without a picture), in key order, of at
            least the shards that have pictures whose digests begin as in `repeated`.
        repeated: from `repeated_prefixes`.
        duplicates: numbers of rows whose URL is an earlier row's.
        originals: the number of that earlier row, for each of them.
    """
    found = [_FOUND.empty_table()]
    for table in tables:
        pictures = table.filter(pc.is_valid(table["sha256"]))
        kept = pictures.filter(pa.array(np.isin(digest_prefixes(pictures["sha256"]), repeated)))
        found.append(kept.append_column("host", url_hosts(kept["url"])).select(_FOUND.names))
    members = pa.concat_tables(found)
    grouped = members.group_by("sha256", use_threads=False).aggregate(
        [("key", "count"), ("host", "count_distinct"), ("key", "first"), ("url", "first")]
    )
    grouped = grouped.filter(pc.greater_equal(grouped["key_count"], MIN_URLS))
    grouped = grouped.sort_by([("key_count", "descending"), ("key_first", "ascending")])
    groups = [
        Placeholder(
            sha256=line["sha256"],
            urls=line["key_count"],
            hosts=line["host_count_distinct"],
            key=line["key_first"],
            url=without_login(line["url_first"]),
        )
        for line in grouped.to_pylist()
    ]
    group = pc.index_in(members["sha256"], value_set=pa.array([group.sha256 for group in groups], pa.string()))
    inside = pc.is_valid(group)
    rows = key_numbers(members["key"].filter(inside))
    group_of_row = group.filter(inside).to_numpy().astype(np.int64)
    return _with_duplicates(groups, rows, group_of_row, duplicates, originals)


def key_numbers(keys: Any) -> Rows:
    """A pyarrow column of keys as row numbers."""
    return np.asarray(pc.cast(keys, pa.int64()).to_numpy(), dtype=np.int64)


def url_hosts(urls: Any) -> Any:
    """Lower-case hosts of a pyarrow column of URLs; null for names of pictures on disk."""
    return pc.utf8_lower(pc.struct_field(pc.extract_regex(urls, _HOST), "host"))


def _with_duplicates(
    groups: Sequence[Placeholder], rows: Rows, group_of_row: Rows, duplicates: Rows, originals: Rows
) -> Placeholders:
    """Add the rows that share a URL with one of `rows`, given ascending."""
    if len(rows):
        at = np.minimum(np.searchsorted(rows, originals), len(rows) - 1)
        shared = rows[at] == originals
        rows = np.concatenate([rows, duplicates[shared]])
        group_of_row = np.concatenate([group_of_row, group_of_row[at[shared]]])
    order = np.argsort(rows, kind="stable")
    return Placeholders(groups, rows[order], group_of_row[order])


def publish_placeholders(root: Root, dataset: str, split: str, placeholders: Placeholders) -> str:
    """Write placeholders.parquet (key, sha256, urls; one line per row, in key order) and return its path."""
    of_row = pa.array(placeholders.group_of_row)
    digests = pa.array([group.sha256 for group in placeholders.groups], pa.string())
    urls = pa.array([group.urls for group in placeholders.groups], pa.int64())
    keys = pa.array([f"{row:09d}" for row in placeholders.rows.tolist()], pa.string())
    table = pa.table([keys, digests.take(of_row), urls.take(of_row)], schema=_SCHEMA)
    path = placeholders_path(dataset, split)
    root.publish(path, lambda stream: pq.write_table(table, stream, compression="zstd"))
    return path


def read_thumbnails(root: Root, dataset: str, split: str, shards: Mapping[str, int], max_side: int) -> dict[str, bytes]:
    """Read small JPEGs of stored pictures by key, touching only their own bytes.

    Args:
        root: where the image shards lie.
        dataset: of the shards.
        split: of the shards.
        shards: key -> number of the image shard that holds it.
        max_side: largest width and height, pixels.

    Returns:
        Key -> JPEG. The pictures of a shard that is not there any more are left out: after extraction some users
        clear the disk of tars.

    Raises:
        ShardError: a shard is damaged.
    """
    thumbnails: dict[str, bytes] = {}
    for shard in sorted(set(shards.values())):
        path = image_shard_path(dataset, split, shard)
        wanted = {f"{key}.jpg": key for key, place in shards.items() if place == shard}
        if not root.exists(path):
            continue
        with root.open(path) as stream:
            for name, content in find_in_tar(stream, root.path(path), wanted):
                thumbnails[wanted[name]] = _thumbnail(content, max_side)
    return thumbnails


def _thumbnail(jpeg: bytes, max_side: int) -> bytes:
    with Image.open(io.BytesIO(jpeg)) as image:
        image.draft("RGB", (max_side, max_side))
        small = image.convert("RGB")
    small.thumbnail((max_side, max_side))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85)
    return stream.getvalue()
