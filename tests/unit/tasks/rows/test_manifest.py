"""Every input row stands in the manifest, with the key it keeps for good."""

from __future__ import annotations

import gzip
import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.config import DatasetConfig, RowsConfig
from tasks.errors import UserError
from tasks.records import ShardRef
from tasks.rows import manifest as manifest_room
from tasks.rows.duplicates import FirstRows
from tasks.rows.manifest import (
    ManifestRow,
    drop_shards_beyond,
    list_shards,
    make_manifest,
    read_manifest,
    read_manifest_shard,
)
from tasks.storage.root import Root

GOLDEN = Path(__file__).parents[4] / "../shared/data/conceptual_captions/Validation_GCC-1.1.0-Validation.tsv"


def dataset(path: Path | str, shard_size: int = 1024) -> DatasetConfig:
    return DatasetConfig(name="tiny", splits={"train": str(path)}, shard_size=shard_size)


def write(folder: Path, content: bytes, name: str = "rows.tsv") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def rows_of(folder: Path, content: bytes) -> list[ManifestRow]:
    root = Root(str(folder / "root"))
    make_manifest(root, dataset(write(folder, content)), "train")
    return list(read_manifest(root, "tiny", "train"))


def test_key_is_the_input_row_number(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, b"a dog\thttp://a.example/1.jpg\nno tab here\na cat\thttps://a.example/2.jpg\n")
    assert [row.key for row in rows] == ["000000000", "000000001", "000000002"]
    assert [row.outcome for row in rows] == ["", "bad_row", ""]
    assert [row.caption for row in rows] == ["a dog", "no tab here", "a cat"]
    assert [row.fetches for row in rows] == [True, False, True]


def test_quotes_are_ordinary_characters(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, b'"unbalanced\thttp://a.example/1\nsays "hi"\thttp://a.example/2\n')
    assert [row.caption for row in rows] == ['"unbalanced', 'says "hi"']


def test_row_is_split_at_its_last_tab(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, b"one\ttwo\thttp://a.example/1\n")
    assert (row.caption, row.url) == ("one\ttwo", "http://a.example/1")


def test_windows_line_ends_and_byte_order_mark_are_no_part_of_a_row(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, b"\xef\xbb\xbfa dog\thttp://a.example/1\r\na cat\thttp://a.example/2\r\n")
    assert [(row.caption, row.url) for row in rows] == [
        ("a dog", "http://a.example/1"),
        ("a cat", "http://a.example/2"),
    ]


def test_row_that_is_not_utf8_is_a_bad_row_and_its_neighbours_stay(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, b"caf\xe9\thttp://a.example/1\ncaf\xc3\xa9\thttp://a.example/2\n")
    assert [row.outcome for row in rows] == ["bad_row", ""]
    assert rows[1].caption == "café"


@pytest.mark.parametrize(
    "url", ["ftp://a.example/1", "file:///etc/passwd", "http:///1.jpg", "a.example/1", "", "http://a:b/", "http://[1/"]
)
def test_anything_but_http_with_a_host_is_a_bad_url(tmp_path: Path, url: str) -> None:
    rows = rows_of(tmp_path, f"a dog\t{url}\nanchor\thttp://anchor.example\n".encode())
    assert [row.outcome for row in rows] == ["bad_url", ""]


def test_row_without_a_caption_is_a_bad_row(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, b"a dog\thttp://a.example/1\n \thttp://a.example/2\n")
    assert [row.outcome for row in rows] == ["", "bad_row"]


def test_repeated_url_points_to_its_first_row(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    path = write(
        tmp_path, b"a\thttp://x.example/1\nb\thttp://x.example/2\nc\thttp://x.example/1\nd\tftp://x\ne\tftp://x\n"
    )
    result = make_manifest(root, dataset(path), "train")
    image_keys = [row.image_key for row in read_manifest(root, "tiny", "train")]
    assert image_keys == ["000000000", "000000001", "000000000", "000000003", "000000004"]
    assert result.receipt.counts == {"rows": 5, "bad_row": 0, "bad_url": 2, "duplicate": 1}


def test_manifest_of_the_same_rows_is_skipped_wherever_they_lie(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    content = b"a dog\thttp://a.example/1\n"
    first = make_manifest(root, dataset(write(tmp_path, content)), "train")
    moved = make_manifest(root, dataset(write(tmp_path, content, "moved.tsv")), "train")
    packed = make_manifest(root, dataset(write(tmp_path, gzip.compress(content), "rows.tsv.gz")), "train")
    assert [first.skipped, moved.skipped, packed.skipped] == [False, True, True]


def test_changed_rows_make_a_new_manifest(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    make_manifest(root, dataset(write(tmp_path, b"a dog\thttp://a.example/1\n")), "train")
    again = make_manifest(root, dataset(write(tmp_path, b"a cat\thttp://a.example/1\n")), "train")
    assert not again.skipped
    assert [row.caption for row in read_manifest(root, "tiny", "train")] == ["a cat"]


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, b"a dog\thttp://a.example/1\nb\n")
    results = [make_manifest(Root(str(tmp_path / name)), dataset(path), "train") for name in ("one", "two")]
    assert results[0].receipt.files == results[1].receipt.files


def test_gzipped_rows_on_a_memory_root(tmp_path: Path) -> None:
    root = Root(f"memory://{tmp_path.name}-manifest")
    path = write(tmp_path, gzip.compress(b"a dog\thttp://a.example/1\n"), "rows.tsv.gz")
    make_manifest(root, dataset(path), "train")
    assert read_manifest_shard(root, ShardRef(dataset="tiny", split="train", shard=0), 1024)[0].caption == "a dog"


def test_shards_cover_all_rows_across_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_room, "ROW_GROUP", 4)
    root = Root(str(tmp_path / "root"))
    config = dataset(write(tmp_path, b"".join(b"c%d\thttp://a.example/%d\n" % (i, i) for i in range(11))), shard_size=3)
    make_manifest(root, config, "train")
    shards = list_shards(root, config, "train")
    assert [ref.shard for ref in shards] == [0, 1, 2, 3]
    captions = [[row.caption for row in read_manifest_shard(root, ref, 3)] for ref in shards]
    assert captions == [["c0", "c1", "c2"], ["c3", "c4", "c5"], ["c6", "c7", "c8"], ["c9", "c10"]]


def test_shard_beyond_the_manifest_is_refused(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    make_manifest(root, dataset(write(tmp_path, b"a\thttp://a.example/1\n")), "train")
    with pytest.raises(UserError, match="has 1 rows"):
        read_manifest_shard(root, ShardRef(dataset="tiny", split="train", shard=1), 1024)


def test_missing_manifest_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unicoder-vl download"):
        list_shards(Root(str(tmp_path)), dataset("rows.tsv"), "train")


def test_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no split 'val'; it has train"):
        make_manifest(Root(str(tmp_path)), dataset("rows.tsv"), "val")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.tsv", None, "not found: .*rows.tsv; give the path"),
        ("rows.tsv", b"", "empty"),
        (
            "rows.tsv",
            b"caption,url\na dog,http://a.example/1\n",
            "no row of .* is a caption and a URL .*no tab.*; .* TAB url",
        ),
        ("rows.tsv", b"a dog\tftp://a.example/1\n", "the first is 'ftp://a.example/1'"),
        ("rows.tsv.gz", b"\0\1\2\3", "cannot be read to the end"),
        ("rows.tsv.gz", gzip.compress(b"a dog\thttp://a.example/1\n" * 99, mtime=0)[:-9], "cannot be read to the end"),
    ],
)
def test_unusable_input_is_named_and_leaves_nothing(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    root = tmp_path / "root"
    if content is not None:
        write(tmp_path, content, name)
    with pytest.raises(UserError, match=message):
        make_manifest(Root(str(root)), dataset(tmp_path / name), "train")
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_folder_instead_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        make_manifest(Root(str(tmp_path / "root")), dataset(tmp_path / "rows.tsv"), "train")


def test_shards_of_a_manifest_with_uneven_row_groups_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_room, "_BATCH_CHARACTERS", 60)
    root = Root(str(tmp_path / "root"))
    lengths = [1, 80, 1, 1, 1, 90, 1, 1, 1, 1, 1]
    content = b"".join(b"%s\thttp://a.example/%d\n" % (b"c" * n, i) for i, n in enumerate(lengths))
    config = dataset(write(tmp_path, content), shard_size=3)
    make_manifest(root, config, "train")
    assert pq.ParquetFile(tmp_path / "root/datasets/tiny/train/manifest.parquet").num_row_groups > 3
    found = [
        len(row.caption) for ref in list_shards(root, config, "train") for row in read_manifest_shard(root, ref, 3)
    ]
    assert found == lengths


def test_manifest_of_before_row_groups_shrank_is_read(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    config = dataset(write(tmp_path, b"".join(b"c%d\thttp://a.example/%d\n" % (i, i) for i in range(9000))))
    make_manifest(root, config, "train")
    path = tmp_path / "root/datasets/tiny/train/manifest.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=65_536, compression="zstd")
    last = read_manifest_shard(root, ShardRef(dataset="tiny", split="train", shard=8), 1024)
    assert [row.caption for row in last] == [f"c{i}" for i in range(8192, 9000)]


def test_the_detail_of_a_row_is_kept_and_manifests_without_it_are_read(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, b"no tab\na dog\tftp://x\na cat\thttp://a.example/1\n")
    details = ["no tab between caption and URL", "does not begin with http:// or https://", ""]
    assert [row.detail for row in rows] == details
    path = tmp_path / "root/datasets/tiny/train/manifest.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["detail"]), path)
    root = Root(str(tmp_path / "root"))
    assert list(read_manifest(root, "tiny", "train")) == [replace(row, detail="") for row in rows]


def test_rows_on_disk_and_rows_of_the_web_are_the_same_to_a_manifest(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    rows = write(tmp_path, b"a.jpg#0\ta dog\na.jpg#1\tone dog\n../b.jpg#0\ta cat\n", "captions.token.txt")
    source = RowsConfig(rows=str(rows), images=str(tmp_path))
    config = DatasetConfig(name="tiny", splits={"test": source})
    counts = make_manifest(root, config, "test").receipt.counts
    assert counts == {"rows": 3, "bad_row": 0, "bad_url": 1, "duplicate": 1}
    assert [(row.url, row.image_key, row.fetches) for row in read_manifest(root, "tiny", "test")] == [
        ("a.jpg", "000000000", True),
        ("a.jpg", "000000000", False),
        ("../b.jpg", "000000002", False),
    ]
    (tmp_path / "elsewhere").mkdir()
    moved = source.model_copy(update={"images": str(tmp_path / "elsewhere")})
    assert make_manifest(root, DatasetConfig(name="tiny", splits={"test": moved}), "test").skipped


def test_more_rows_than_keys_have_digits_for_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_room, "MOST_ROWS", 2)
    path = write(tmp_path, b"a dog\thttp://a.example/1\n" * 3)
    with pytest.raises(UserError, match="are more than 2; make several datasets"):
        make_manifest(Root(str(tmp_path / "root")), dataset(path), "train")
    assert not (tmp_path / "root").exists()


# --- rows that changed ----------------------------------------------------------------------------------------------

THREE = b"a\thttp://x.example/1\nb\thttp://x.example/2\nc\thttp://x.example/3\n"


def begun_root(tmp_path: Path, file: str = "images/images-00000.json") -> Root:
    root = Root(str(tmp_path / "root"))
    make_manifest(root, dataset(write(tmp_path, THREE), shard_size=1), "train")
    root.publish_bytes(f"datasets/tiny/train/{file}", b"{}")
    return root


def state_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (THREE.replace(b"b\t", b"B\t"), "3 rows then, 3 now, row 1 is the first that differs"),
        (THREE.replace(b"/3", b"/4") + b"d\thttp://d\n", "3 rows then, 4 now, row 2 is the first that differs"),
        (THREE + b"d\thttp://x.example/4\n", "3 rows then, 4 now, rows were added at the end"),
        (THREE[:21], "3 rows then, 1 now, rows were cut at the end"),
    ],
)
@pytest.mark.parametrize("begun", ["images/images-00000.json", "journal/00002.journal"])
def test_rows_that_change_under_begun_images_are_refused(
    tmp_path: Path, content: bytes, message: str, begun: str
) -> None:
    root = begun_root(tmp_path, begun)
    before = state_of(tmp_path / "root")
    changed = dataset(write(tmp_path, content, "changed.tsv"), shard_size=1)
    with pytest.raises(UserError, match=f"the rows of tiny/train changed .*: {message}; give another --root"):
        make_manifest(root, changed, "train")
    assert state_of(tmp_path / "root") == before
    assert not make_manifest(root, changed, "train", accept_changes=True).skipped
    assert make_manifest(root, changed, "train").skipped


def test_same_rows_in_another_form_are_no_change(tmp_path: Path) -> None:
    root = begun_root(tmp_path)
    before = (tmp_path / "root/datasets/tiny/train/manifest.parquet").read_bytes()
    text = b"url,caption\nhttp://x.example/1,a\nhttp://x.example/2,b\nhttp://x.example/3,c\n"
    assert not make_manifest(root, dataset(write(tmp_path, text, "rows.csv")), "train").skipped
    assert (tmp_path / "root/datasets/tiny/train/manifest.parquet").read_bytes() == before


def test_first_difference_is_found_across_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Root(str(tmp_path / "root"))
    lines = [b"c%d\thttp://a.example/%d\n" % (i, i) for i in range(50)]
    make_manifest(root, dataset(write(tmp_path, b"".join(lines))), "train")
    root.publish_bytes("datasets/tiny/train/images/images-00000.json", b"{}")
    lines[37] = b"no tab\n"
    monkeypatch.setattr(manifest_room, "_BATCH_ROWS", 7)
    with pytest.raises(UserError, match="row 37 is the first"):
        make_manifest(root, dataset(write(tmp_path, b"".join(lines))), "train")


def test_damaged_manifest_is_named(tmp_path: Path) -> None:
    root = begun_root(tmp_path)
    (tmp_path / "root/datasets/tiny/train/manifest.parquet").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"manifest.parquet is damaged .*; remove it and run"):
        make_manifest(root, dataset(write(tmp_path, THREE)), "train")


def test_shards_beyond_the_last_are_removed_and_receipts_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = begun_root(tmp_path)
    names = ["images-{}.json", "images-{}.tar", "outcomes-{}.parquet"]
    for shard in ("00000", "00001", "00002", "100000"):
        for name in names:
            root.publish_bytes(f"datasets/tiny/train/images/{name.format(shard)}", b"")
        root.publish_bytes(f"datasets/tiny/train/journal/{shard}.journal", b"")
    root.publish_bytes("datasets/tiny/train/images/notes-00009.txt", b"the user's own")
    removed: list[str] = []
    remove = root.remove
    monkeypatch.setattr(root, "remove", lambda path: (removed.append(path), remove(path)))
    drop_shards_beyond(root, "tiny", "train", 2)
    assert [path.rsplit("/", 1)[-1] for path in removed[:2]] == ["images-00002.json", "images-100000.json"]
    assert len(removed) == 8 and "tiny/train has 2 shards: removing 8 files" in caplog.text
    assert len(root.names("datasets/tiny/train/images")) == 7
    assert root.names("datasets/tiny/train/journal") == ["00000.journal", "00001.journal"]


# --- duplicates -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.none() | st.integers(0, 600), max_size=40), max_size=6))
def test_first_rows_equal_their_slow_twin(batches: list[list[int | None]]) -> None:
    """None is a row without a digest. Numbers differ in the first, a middle or the last byte of their digests."""

    def digest(value: int) -> bytes:
        return bytes([value % 3, *([0] * 6), value // 3 % 5, *([0] * 7), value // 15])

    seen: dict[bytes, int] = {}
    expected: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        first_rows = FirstRows(Path(folder))
        number = 0
        for batch in batches:
            kept = [(number + i, digest(value)) for i, value in enumerate(batch) if value is not None]
            first_rows.add(np.array([row for row, _ in kept], np.int64), b"".join(content for _, content in kept))
            for i, value in enumerate(batch):
                row = number + i
                first = row if value is None else seen.setdefault(digest(value), row)
                expected.append(0 if first == row else first + 1)
            number += len(batch)
        firsts, duplicates = first_rows.resolve(number)
        assert firsts.tolist() == expected
        assert duplicates == sum(first > 0 for first in expected)
        first_rows.close()


# --- any input ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=12),
            st.sampled_from([b"a dog\thttp://a.example/1", b"b\thttp://b.example/2", b"\t", b'"\thttps://c.example']),
        ),
        max_size=12,
    )
)
def test_every_input_row_is_accounted_for(lines: list[bytes]) -> None:
    content = b"anchor\thttp://anchor.example\n" + b"\n".join(lines)
    name = hashlib.sha256(content).hexdigest()
    root = Root(f"memory://property-{name}")
    root.publish_bytes("rows.tsv", content)
    config = dataset(f"memory://property-{name}/rows.tsv")
    counts = make_manifest(root, config, "train").receipt.counts
    rows = list(read_manifest(root, "tiny", "train"))
    expected = content.count(b"\n") + (not content.endswith(b"\n"))
    assert counts["rows"] == len(rows) == expected
    fetched = sum(row.fetches for row in rows)
    assert fetched + counts["bad_row"] + counts["bad_url"] + counts["duplicate"] == expected
    assert len({row.url for row in rows if not row.outcome}) == fetched


@pytest.mark.skipif(not GOLDEN.exists(), reason="the published validation rows are not beside the checkout")
def test_published_validation_rows_parse_whole(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    config = dataset(GOLDEN)
    counts = make_manifest(root, config, "train").receipt.counts
    assert counts["rows"] == 15_833
    assert counts["bad_row"] == counts["bad_url"] == 0
    assert len(list_shards(root, config, "train")) == 16
    first = next(read_manifest(root, "tiny", "train"))
    assert first.caption == "author : a life in photography -- in pictures"
    assert first.url.endswith("--anita-ekberg-bob-hope.jpg")
