"""Image shards are WebDataset shards: our users' own reader sees the same keys and bytes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feature_extraction.samples.images import ImageSample, encode_image, read_image_shard
from feature_extraction.samples.tars import write_tar
from tasks.config import DatasetConfig, RowsConfig
from tasks.download.config import DownloadConfig
from tasks.download.fetching import Session
from tasks.download.shard import download_shard
from tasks.rows.manifest import list_shards, make_manifest
from tasks.storage.root import Root

webdataset = pytest.importorskip("webdataset")


def jpeg(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def test_webdataset_reads_a_downloaded_shard(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in (0, 1, 3, 4):
        (tmp_path / f"pictures/{number}.jpg").write_bytes(jpeg(number))
    rows = tmp_path / "rows.tsv"
    rows.write_text("".join(f"caption {n}, “quoted”\t{n}.jpg\n" for n in range(5)), encoding="utf-8")
    root = Root(str(tmp_path / "root"))
    source = RowsConfig(rows=str(rows), images=str(tmp_path / "pictures"))
    dataset = DatasetConfig(name="tiny", splits={"train": source})
    make_manifest(root, dataset, "train")
    with Session(dataset, "train", DownloadConfig()) as session:
        download_shard(root, dataset, list_shards(root, dataset, "train")[0], session)

    path = tmp_path / "root/datasets/tiny/train/images/images-00000.tar"
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["000000000", "000000001", "000000003", "000000004"]
    assert [sample["jpg"] for sample in samples] == [jpeg(n) for n in (0, 1, 3, 4)]
    assert json.loads(samples[2]["json"])["caption"] == "caption 3, “quoted”"
    with path.open("rb") as stream:
        ours = list(read_image_shard(stream, path.name))
    assert [(sample.key, sample.jpeg) for sample in ours] == [(s["__key__"], s["jpg"]) for s in samples]


def test_image_sample_round_trips() -> None:
    sample = ImageSample("000000007", 'a "dog"\tat night', "http://x.example/7", (50, 40), "0" * 64, jpeg(7))
    stream = io.BytesIO()
    write_tar(stream, encode_image(sample))
    stream.seek(0)
    assert list(read_image_shard(stream, "images-00000.tar")) == [sample]
