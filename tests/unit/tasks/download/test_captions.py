"""Captions hold every row whose image arrived, and their receipt accounts for every row that did not."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.config import DatasetConfig, RowsConfig
from tasks.download.captions import make_captions
from tasks.download.config import DownloadConfig
from tasks.download.fetching import Session
from tasks.download.shard import download_shard
from tasks.errors import UserError
from tasks.rows.manifest import list_shards, make_manifest
from tasks.storage.root import Root


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 40), "green").save(stream, "JPEG")
    return stream.getvalue()


ROWS = [
    "a dog\t1.jpg",
    "gone\tabsent.jpg",
    "the same dog\t1.jpg",
    "no name",
    "gone too\tabsent.jpg",
    "a page\tpage.jpg",
    "a cat\t4.jpg",
]


@pytest.fixture(autouse=True)
def pictures(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures that the rows name, in the folder `pictures` of the working directory."""
    folder = tmp_path_factory.mktemp("work")
    monkeypatch.chdir(folder)
    (folder / "pictures").mkdir()
    for name in ("1.jpg", "4.jpg"):
        (folder / "pictures" / name).write_bytes(picture())
    (folder / "pictures/page.jpg").write_bytes(b"<html>")


def downloaded(root: Root, rows: list[str], shard_size: int = 2) -> DatasetConfig:
    root.publish_bytes("rows.tsv", "\n".join(rows).encode())
    source = RowsConfig(rows=f"{root.uri}/rows.tsv", images="pictures")
    dataset = DatasetConfig(name="tiny", splits={"train": source}, shard_size=shard_size)
    make_manifest(root, dataset, "train")
    download(root, dataset, DownloadConfig())
    return dataset


def download(root: Root, dataset: DatasetConfig, config: DownloadConfig) -> None:
    with Session(dataset, "train", config) as session:
        for ref in list_shards(root, dataset, "train"):
            download_shard(root, dataset, ref, session)


def captions(root: Root) -> list[dict[str, str]]:
    with root.open("datasets/tiny/train/captions.parquet") as stream:
        table = pq.read_table(stream)
    assert table.schema.metadata[b"format"] == b"captions/1"
    rows: list[dict[str, str]] = table.to_pylist()
    return rows


@pytest.mark.parametrize("shard_size", [1, 2, 100])
def test_captions_are_the_rows_whose_image_arrived(tmp_path: Path, shard_size: int) -> None:
    root = Root(str(tmp_path))
    result = make_captions(root, downloaded(root, ROWS, shard_size), "train")
    assert captions(root) == [
        {"caption_id": "000000000", "image_key": "000000000", "text": "a dog", "split": "train"},
        {"caption_id": "000000002", "image_key": "000000000", "text": "the same dog", "split": "train"},
        {"caption_id": "000000006", "image_key": "000000006", "text": "a cat", "split": "train"},
    ]
    # The duplicates count under what became of their image.
    assert result.receipt.counts == {"bad_row": 1, "not_an_image": 1, "not_found": 2, "ok": 3}
    assert sum(result.receipt.counts.values()) == len(ROWS)


def test_captions_of_the_same_shards_are_skipped(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    dataset = downloaded(root, ROWS)
    first, second = make_captions(root, dataset, "train"), make_captions(root, dataset, "train")
    assert (first.skipped, second.skipped) == (False, True)
    assert first.receipt == second.receipt


def test_captions_follow_a_shard_that_changed(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    dataset = downloaded(root, ROWS)
    make_captions(root, dataset, "train")
    download(root, dataset, DownloadConfig(min_side=100))
    assert make_captions(root, dataset, "train").receipt.counts["too_small"] == 3
    assert captions(root) == []


def test_missing_shard_is_named_with_the_command(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    dataset = downloaded(root, ROWS)
    (tmp_path / "datasets/tiny/train/images/images-00001.json").unlink()
    with pytest.raises(UserError, match=r"1 of 4 .*tiny/train/00001.*unicoder-vl download"):
        make_captions(root, dataset, "train")
    assert not (tmp_path / "datasets/tiny/train/captions.parquet").exists()


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2)])
def test_shards_of_another_shard_size_are_refused(tmp_path: Path, before: int, after: int) -> None:
    root = Root(str(tmp_path))
    dataset = downloaded(root, ROWS[:6], before).model_copy(update={"shard_size": after})
    with pytest.raises(UserError, match=r"missing|other rows"):
        make_captions(root, dataset, "train")
    assert not (tmp_path / "datasets/tiny/train/captions.parquet").exists()


def test_works_on_a_memory_root(tmp_path: Path) -> None:
    root = Root(f"memory://{tmp_path.name}-captions")
    make_captions(root, downloaded(root, ROWS), "train")
    assert [row["text"] for row in captions(root)] == ["a dog", "the same dog", "a cat"]
