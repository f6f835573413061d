"""Text shards, txt/1: the passages of a text corpus, and the manifest beside them.

    text-00000.parquet ...   one column `text`, a passage a row, in the order of the input files; row groups of at most
                             4,096 passages or 16 MiB of text, zstd, with checksums
    manifest.json            a `TextManifest`, written last

Every shard but the last has S = `shard_passages` rows. So passage i is row i mod S of shard i div S, and the footer of
that file says in which row group the row is. The bytes of a shard depend on its passages and on the version of pyarrow
alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feature_extraction.samples.tars import ShardError

TEXT_FORMAT = "txt/1"
MIN_WORDS = 64
"""Fewest words of a row of training, which a corpus must have: VL-BERT's."""
_GROUP_PASSAGES = 4096
_GROUP_BYTES = 16 << 20
_SCHEMA = pa.schema([pa.field("text", pa.string(), nullable=False)], metadata={"format": TEXT_FORMAT})


class TextShardEntry(BaseModel):
    """One shard of a text corpus."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^text-\d{5,}\.parquet$", description="file name")
    passages: int = Field(ge=1, description="rows of the shard")
    bytes: int = Field(ge=0, description="size of the file")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the file")


class TextManifest(BaseModel):
    """The facts of a text corpus, written last beside its shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["txt/1"] = "txt/1"
    fingerprint: str = Field(description="of the input files, the shard size and the format")
    shard_passages: int = Field(ge=1, description="passages of every shard but the last")
    blank: int = Field(ge=0, description="lines without a character to see, which were left out")
    shards: tuple[TextShardEntry, ...] = Field(min_length=1, description="in order")

    @property
    def passages(self) -> int:
        return sum(shard.passages for shard in self.shards)


def parse_text_manifest(content: bytes, where: str) -> TextManifest:
    """Parse the manifest of a text corpus from its JSON.

    Raises:
        ShardError: not such a manifest, or of another format version.
    """
    try:
        return TextManifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ShardError(
            f"{where}: not a text manifest of format {TEXT_FORMAT} ({'.'.join(map(str, first['loc']))}: "
            f"{first['msg']}); remove it and run: unicoder-vl download --text"
        ) from error


def text_shard_name(shard: int) -> str:
    return f"text-{shard:05d}.parquet"


def write_text_shard(stream: IO[bytes], passages: Iterable[str]) -> int:
    """Write passages as they come, one row group in memory at a time, and return their number."""
    count = 0
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
    with pq.ParquetWriter(stream, _SCHEMA, **options) as writer:
        for group in _groups(passages):
            writer.write_batch(pa.record_batch([pa.array(group, pa.string())], schema=_SCHEMA))
            count += len(group)
    return count


def read_text_shard(stream: IO[bytes], where: str) -> Iterator[list[str]]:
    """Read the passages of a shard in order, one row group in memory at a time; `where` names it in errors.

    Raises:
        ShardError: not a text shard, of another format version, or damaged.
    """
    try:
        file = pq.ParquetFile(stream, page_checksum_verification=True)
        found = (file.schema_arrow.metadata or {}).get(b"format", b"").decode()
        if found != TEXT_FORMAT:
            raise ShardError(f"{where} has format {found!r}, expected {TEXT_FORMAT!r}; make the text corpus again")
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, use_threads=False)["text"].to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ShardError(
            f"{where} cannot be read ({reason}); if it is damaged, remove it and download again"
        ) from error


def _groups(passages: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for passage in passages:
        group.append(passage)
        size += len(passage)
        if len(group) == _GROUP_PASSAGES or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
