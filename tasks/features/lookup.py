"""Read single regions, pictures and captions from shards and tables, skipping what lies between."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import IO, Any

import pyarrow.parquet as pq

from feature_extraction.samples.regions import RegionLayout, decode_layout
from feature_extraction.samples.tars import ShardError, find_in_tar
from tasks.storage.paths import captions_path, image_shard_path
from tasks.storage.root import Root

_TAR_HEADER = 512
_NAME_BYTES = 100
_RECORD_HEADER = 64


def read_layout(stream: IO[bytes], shard: str) -> RegionLayout:
    """The layout of a feature shard's first record, which all others share.

    Raises:
        ShardError: the shard is empty, or does not begin with a record of this format version.
    """
    stream.seek(0)
    head = stream.read(_TAR_HEADER + _RECORD_HEADER)
    try:
        return decode_layout(_key(head, shard, 0), head[_TAR_HEADER:])[0]
    except ShardError as error:
        raise ShardError(f"{shard}: {error}") from error


def read_record(stream: IO[bytes], shard: str, layout: RegionLayout, position: int) -> tuple[str, bytes]:
    """Key and `.rgn` record of one image, by its position in the shard: records have one stride.

    Raises:
        ShardError: there is no such record there; `shard` names it.
    """
    stream.seek(position * layout.tar_bytes)
    content = stream.read(_TAR_HEADER + layout.record_bytes)
    return _key(content, shard, position), content[_TAR_HEADER:]


def find_records(
    stream: IO[bytes], shard: str, layout: RegionLayout, samples: int, keys: Collection[str]
) -> Iterator[tuple[str, bytes]]:
    """Key and record of the wanted images in this shard of so many samples."""
    wanted = len(keys)
    for position in range(samples):
        if not wanted:
            return
        stream.seek(position * layout.tar_bytes)
        if _key(stream.read(_NAME_BYTES), shard, position) in keys:
            wanted -= 1
            yield read_record(stream, shard, layout, position)


def _key(head: bytes, shard: str, position: int) -> str:
    name = head[:_NAME_BYTES].rstrip(b"\0").decode("ascii", "replace")
    key, _, extension = name.partition(".")
    if extension != "rgn":
        raise ShardError(f"{shard}: member {position} is not where the layout says; extract this shard again")
    return key


def read_pictures(root: Root, dataset: str, split: str, shards: Mapping[int, Collection[str]]) -> dict[str, bytes]:
    """Read stored JPEGs by key. An image shard has the number of its feature shard.

    Args:
        root: where the image shards lie.
        dataset: of the shards.
        split: of the shards.
        shards: number of a shard -> keys wanted from it.

    Returns:
        Key -> JPEG. What is not there is left out: after extraction some users clear the disk of images.

    Raises:
        ShardError: an image shard is damaged.
    """
    pictures: dict[str, bytes] = {}
    for shard, keys in shards.items():
        path = image_shard_path(dataset, split, shard)
        if not root.exists(path):
            continue
        with root.open(path) as stream:
            for name, content in find_in_tar(stream, root.path(path), {f"{key}.jpg" for key in keys}):
                pictures[name.removesuffix(".jpg")] = content
    return pictures


def read_captions(root: Root, dataset: str, split: str, keys: Collection[str]) -> dict[str, list[str]]:
    """Captions of images by key, in the order of the table; empty where a split has no table yet."""
    captions: dict[str, list[str]] = {}
    path = captions_path(dataset, split)
    if not keys or not root.exists(path):
        return captions
    with root.open(path) as stream:
        table: Any = pq.read_table(stream, columns=["image_key", "text"], filters=[("image_key", "in", sorted(keys))])
    for key, text in zip(table["image_key"].to_pylist(), table["text"].to_pylist(), strict=True):
        captions.setdefault(key, []).append(text)
    return captions
