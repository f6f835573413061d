import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_extraction.samples.tars import ShardError
from model.data.text_shards import parse_text_manifest, read_text_shard, write_text_shard


def written(passages):
    stream = io.BytesIO()
    assert write_text_shard(stream, iter(passages)) == len(passages)
    return stream


def read(stream):
    return [text for group in read_text_shard(stream, "text-00000.parquet") for text in group]


def test_passages_come_back_in_order_and_bytes_repeat():
    passages = [f"passage {number} ä 漢" for number in range(10_000)]
    stream = written(passages)
    assert read(stream) == passages
    assert written(passages).getvalue() == stream.getvalue()


def test_a_row_group_is_bounded_by_passages_and_by_their_size():
    few = pq.ParquetFile(written(["x"] * 9000))
    assert [few.metadata.row_group(group).num_rows for group in range(few.num_row_groups)] == [4096, 4096, 808]
    long = pq.ParquetFile(written(["x" * (6 << 20)] * 4))
    assert [long.metadata.row_group(group).num_rows for group in range(long.num_row_groups)] == [3, 1]


def test_passages_are_taken_as_they_are_written():
    taken = 0

    def passages():
        nonlocal taken
        for _ in range(3 * 4096):
            taken += 1
            yield "word"

    seen = set()

    class Stream(io.BytesIO):
        def write(self, content):
            seen.add(taken)
            return super().write(content)

    write_text_shard(Stream(), passages())
    assert {4096, 2 * 4096} <= seen


def test_another_parquet_file_is_named():
    stream = io.BytesIO()
    pq.write_table(pa.table({"text": ["a"]}), stream)
    with pytest.raises(ShardError, match=r"text-00000.parquet has format '', expected 'txt/1'"):
        read(stream)


@pytest.mark.parametrize("at", [0.3, 0.6, 1.0])
def test_damage_is_named(at):
    content = bytearray(written([f"passage {number * 7919}" for number in range(5000)]).getvalue())
    content[min(int(len(content) * at), len(content) - 6)] ^= 0xFF
    with pytest.raises(ShardError, match=r"text-00000.parquet cannot be read"):
        read(io.BytesIO(bytes(content)))
    with pytest.raises(ShardError, match=r"cannot be read"):
        read(io.BytesIO(bytes(content[: len(content) // 2])))


def test_a_manifest_of_another_format_is_named():
    with pytest.raises(ShardError, match=r"text/manifest.json: not a text manifest of format txt/1 \(format: "):
        parse_text_manifest(b'{"format": "txt/2"}', "text/manifest.json")
