"""A user's own loop gets the samples of a root by WebDataset: all of them once, divided, shuffled, or refused."""

from __future__ import annotations

import io
import logging
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

from feature_extraction.samples.images import encode_image, read_image_shard
from feature_extraction.samples.regions import read_region_shard
from feature_extraction.samples.tars import ShardError, write_tar
from tasks.errors import UserError
from tasks.made_from import begin_import, made_from_path
from tasks.records import Receipt, Stage
from tasks.storage.paths import (
    captions_path,
    captions_receipt_path,
    feature_manifest_path,
    image_shard_path,
    manifest_receipt_path,
)
from tasks.storage.root import Root, now
from tasks.webdatasets import open_images, open_regions, read_labels
from tests.regions import EXTRACTOR, FEATURES, publish_captions, publish_features, publish_pictures, regions_of
from tests.s3_server import Bucket
from tests.searchable import DATASET, NAME, SPLIT, make_searchable

PHOTOS = f"{FEATURES.dataset}/{FEATURES.split}"
KEYS = [f"{number:09d}" for number in range(0, 16, 2)]
"""Of the drawn pictures: every second row has the picture of the one before."""
SHARDS = [KEYS[:3], KEYS[3:6], KEYS[6:]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that was downloaded and extracted to its end: eight pictures of two captions each, in three shards."""
    return Path(make_searchable(tmp_path_factory.mktemp("made")).uri)


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Root:
    """A copy, to spoil."""
    shutil.copytree(made, tmp_path / "root")
    return Root(str(tmp_path / "root"))


def extractor_of(root: Root) -> str:
    return root.names("features")[0]


def keys_of(samples: object) -> list[str]:
    return [sample["key"] for sample in samples]  # type: ignore[attr-defined]


# --- what a sample is


def test_regions_are_those_of_the_shards_with_captions_by_their_image(made: Path) -> None:
    found = list(open_regions(made, NAME, captions=True))
    stored = []
    for path in sorted(made.glob(f"features/*/{NAME}/regions-*.tar")):
        with path.open("rb") as stream:
            stored += [(str(path), sample) for sample in read_region_shard(stream, path.name)]
    assert keys_of(found) == KEYS == [sample.key for _, sample in stored]
    table = pq.read_table(made / captions_path(DATASET, SPLIT)).to_pylist()
    for sample, (path, expected) in zip(found, stored, strict=True):
        assert sample["__key__"] == expected.key and sample["__url__"] == path
        assert sample["size"] == expected.size == (sample["size"][0], sample["size"][1])
        for name in ("boxes", "labels", "scores", "background", "features"):
            np.testing.assert_array_equal(sample[name], getattr(expected, name))
        assert "top_labels" not in sample
        rows = [row for row in table if row["image_key"] == expected.key]
        assert sample["captions"] == [row["text"] for row in rows] and len(rows) == 2
        assert sample["caption_ids"] == [row["caption_id"] for row in rows]
    assert "captions" not in next(iter(open_regions(made, NAME)))
    assert len(read_labels(made, NAME)) > max(int(sample["labels"].max()) for sample in found)


def test_images_are_pictures_with_their_rows_and_facts(made: Path) -> None:
    found = list(open_images(made, NAME))
    undecoded = list(open_images(made, NAME, decode=False, captions=False))
    assert keys_of(found) == keys_of(undecoded) == KEYS
    for sample, stored in zip(found, undecoded, strict=True):
        assert isinstance(sample["image"], Image.Image) and sample["image"].mode == "RGB"
        assert sample["image"].size == sample["json"]["size"]
        np.testing.assert_array_equal(sample["image"], Image.open(io.BytesIO(stored["image"])))
        assert sample["json"] == stored["json"] and set(sample["json"]) == {"caption", "url", "size", "sha256"}
        assert sample["captions"] == [sample["json"]["caption"], "a red circle"]
        assert "captions" not in stored


def test_webdatasets_own_methods_and_a_data_loader_take_the_pipeline(made: Path) -> None:
    pipeline = open_regions(made, NAME, captions=True)
    assert isinstance(pipeline, webdataset.DataPipeline)
    pairs = list(pipeline.select(lambda sample: sample["key"] != KEYS[0]).to_tuple("key", "captions").batched(4))
    assert [list(keys) for keys, _ in pairs] == [KEYS[1:5], KEYS[5:]]
    assert len(list(open_regions(made, NAME).with_epoch(20))) == 20
    loader = DataLoader(open_regions(made, NAME), batch_size=3, collate_fn=keys_of)
    assert list(loader) == [KEYS[:3], KEYS[3:6], KEYS[6:]]


def test_pictures_without_regions_or_captions_and_stored_classes_are_samples_like_others(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    publish_features(root, 0, [regions_of("b"), regions_of("c", labels=())])
    publish_captions(root, [("b", "second"), ("a", "of another picture"), ("b", "é, last")])
    found = list(open_regions(root, PHOTOS, captions=True, partial=True))
    assert [sample["captions"] for sample in found] == [["second", "é, last"], []]
    assert [sample["features"].shape for sample in found] == [(2, 4), (0, 4)]


# --- order and division


def test_shuffled_passes_have_all_samples_and_the_seed_decides_the_orders(made: Path) -> None:
    def passes(seed: int | None) -> list[list[str]]:
        pipeline = open_regions(made, NAME, shuffle=8, seed=seed)
        return [keys_of(pipeline) for _ in range(3)]

    one, same, other, random = passes(1), passes(1), passes(2), passes(None)
    assert one == same != other
    assert all(sorted(order) == KEYS for order in one + other + random)
    assert len({tuple(order) for order in one}) > 1  # Each pass another order.
    assert keys_of(open_images(made, NAME, shuffle=8, seed=1)) == one[0]  # The same shards and buffer.


def test_processes_and_workers_share_the_shards(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def share(**environment: int) -> list[str]:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, str(value))
            return keys_of(open_regions(made, NAME))

    assert share(RANK=0, WORLD_SIZE=2) == SHARDS[0] + SHARDS[2]
    assert share(RANK=1, WORLD_SIZE=2) == SHARDS[1]
    assert share(RANK=0, WORLD_SIZE=2, WORKER=1, NUM_WORKERS=2) == SHARDS[2]
    assert share(WORKER=3, NUM_WORKERS=4) == []  # A worker may have nothing to do; a process may not.
    with pytest.raises(UserError, match="3 shards cannot be divided among 4 processes"):
        share(RANK=0, WORLD_SIZE=4)


@pytest.mark.parametrize("shuffle", [0, 8])
def test_a_pipeline_goes_to_another_process(made: Path, shuffle: int) -> None:
    for pipeline in (open_regions(made, NAME, captions=True, shuffle=shuffle), open_images(made, NAME)):
        sent = pickle.dumps(pipeline)
        assert len(sent) < 5_000  # The captions are read there.
        there = sorted(pickle.loads(sent), key=lambda sample: sample["key"])
        assert keys_of(there) == KEYS
        assert all(sample["captions"][1] == "a red circle" for sample in there)


def test_importing_it_imports_no_torch() -> None:
    program = "import sys, tasks.webdatasets; sys.exit('torch' in sys.modules or 'webdataset' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- object stores


def test_a_root_on_an_object_store_reads_the_same(made: Path, bucket: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    for path in sorted(made.rglob("*")):
        if path.is_file() and path.relative_to(made).parts[0] in ("datasets", "features"):
            bucket.put(f"root/{path.relative_to(made)}", path.read_bytes())
    uri = f"{bucket.uri}/root"
    for there, here in (
        (open_regions(uri, NAME, captions=True), open_regions(made, NAME, captions=True)),
        (open_images(uri, NAME, decode=False), open_images(made, NAME, decode=False)),
    ):
        for sample, expected in zip(pickle.loads(pickle.dumps(there)), here, strict=True):
            assert sample.pop("__url__").startswith(uri) and expected.pop("__url__").startswith(str(made))
            assert str(sample) == str(expected)
    assert not caplog.records


# --- what is refused


def test_of_several_extractors_one_is_to_be_named(root: Root) -> None:
    own = extractor_of(root)
    folder = Path(root.path("features"))
    shutil.copytree(folder / own, folder / "0123456789ab")
    with pytest.raises(UserError, match=rf"features of 2 extractors.*0123456789ab, {own}; choose with extractor="):
        open_regions(root, NAME)
    with pytest.raises(UserError, match="2 extractors"):
        read_labels(root, NAME)
    assert keys_of(open_regions(root, NAME, extractor=own)) == KEYS
    with pytest.raises(UserError, match="no features of drawn/test by ffff"):
        open_regions(root, NAME, extractor="ffff")


@pytest.mark.parametrize("split", ["drawn", "drawn/test/", "../drawn/test", ""])
def test_what_is_no_split_is_named(root: Root, split: str) -> None:
    for read in (open_regions, open_images, read_labels):
        with pytest.raises(UserError, match="is not DATASET/SPLIT, such as cc3m/train"):
            read(root, split)


def test_a_split_that_is_not_there_names_those_that_are(root: Root) -> None:
    with pytest.raises(UserError, match=r"no features of drawn/val under .*; there are drawn/test of"):
        open_regions(root, "drawn/val")
    with pytest.raises(UserError, match=r"no images of drawn/val under .*; there are images of drawn/test; run"):
        open_images(root, "drawn/val")


@pytest.mark.parametrize("shuffle", [-1, True])
def test_a_shuffle_that_is_no_number_of_samples_is_refused(made: Path, shuffle: int) -> None:
    with pytest.raises(UserError, match="give the number of samples to draw from"):
        open_regions(made, NAME, shuffle=shuffle)


def test_features_that_lost_a_shard_say_which_and_are_read_on_request(
    root: Root, caplog: pytest.LogCaptureFixture
) -> None:
    root.remove(f"features/{extractor_of(root)}/{NAME}/regions-00001.tar")
    with pytest.raises(UserError, match=r"not whole: 1 of 3 shards are missing \(00001\); run.*partial=True"):
        open_regions(root, NAME)
    with caplog.at_level(logging.WARNING):
        assert keys_of(open_regions(root, NAME, partial=True)) == SHARDS[0] + SHARDS[2]
    assert "1 of 3 shards are missing (00001)" in caplog.text


def test_an_unfinished_extraction_says_what_is_missing(root: Root, caplog: pytest.LogCaptureFixture) -> None:
    extractor = extractor_of(root)
    root.remove(feature_manifest_path(extractor, DATASET, SPLIT))
    root.remove(made_from_path(extractor, DATASET, SPLIT))
    with pytest.raises(UserError, match="not whole: the extraction or import has not come to its end; run"):
        open_regions(root, NAME)
    for shard in (0, 2):
        root.remove(f"features/{extractor}/{NAME}/regions-{shard:05d}.json")
    with pytest.raises(UserError, match=r"2 of 3 shards are missing \(00000, 00002\)"):
        open_regions(root, NAME)
    assert keys_of(open_regions(root, NAME, partial=True)) == SHARDS[1]
    root.remove(f"features/{extractor}/{NAME}/regions-00001.json")
    with pytest.raises(UserError, match=r"3 of 3 shards are missing.* with the same parameters$"):
        open_regions(root, NAME, partial=True)


def test_an_unfinished_download_says_what_is_missing(root: Root, caplog: pytest.LogCaptureFixture) -> None:
    for path in (captions_receipt_path(DATASET, SPLIT), captions_path(DATASET, SPLIT)):
        root.remove(path)
    root.remove(f"datasets/{NAME}/images/images-00002.json")
    with pytest.raises(UserError, match=r"1 of 3 shards are missing \(00002\); the download has not come to its end"):
        open_images(root, NAME)
    with pytest.raises(UserError, match=r"drawn/test has no captions under .*captions=False"):
        open_images(root, NAME, partial=True)
    assert keys_of(open_images(root, NAME, partial=True, captions=False)) == SHARDS[0] + SHARDS[1]
    assert "(00002)" in caplog.text


def test_what_was_finished_without_a_shard_says_so(root: Root, caplog: pytest.LogCaptureFixture) -> None:
    path = captions_receipt_path(DATASET, SPLIT)
    root.publish_bytes(path, root.read_bytes(path).replace(b'"files"', b'"missing": [3], "files"'))
    rows = f"datasets/{NAME}/manifest.json"
    root.publish_bytes(rows, re.sub(rb'"rows": \d+', b'"rows": 19', root.read_bytes(rows)))
    root.remove(f"features/{extractor_of(root)}/{NAME}/made-from.json")
    root.remove(f"datasets/{NAME}/images/images-00000.json")  # So nobody can tell whether the captions are stale.
    assert keys_of(open_regions(root, NAME)) == KEYS
    assert "were finished without 1 shard (00003)" in caplog.text


def test_features_of_other_images_than_stand_now_are_refused(root: Root) -> None:
    path = image_shard_path(DATASET, SPLIT, 1)
    receipt = path.replace(".tar", ".json")
    root.publish_bytes(
        receipt, re.sub(rb'("images-00001.tar": \{[^}]*"sha256": ")..', rb"\g<1>00", root.read_bytes(receipt))
    )
    root.remove(made_from_path(extractor_of(root), DATASET, SPLIT))
    with pytest.raises(UserError, match="made from other rows or images than are under"):
        open_regions(root, NAME)
    with pytest.raises(UserError, match="made from other rows or images than are under"):
        open_images(root, NAME)
    root.remove(captions_receipt_path(DATASET, SPLIT))
    with pytest.raises(UserError, match=r"made from other images than are under.*1 of 3 shards, 00001"):
        open_regions(root, NAME)


def test_features_imported_by_order_are_refused_once_the_split_has_rows(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    publish_features(root, 0, [regions_of("a")], details={"imported_from": "LXMERT's TSV"})
    begin_import(root, FEATURES.dataset, FEATURES.split, EXTRACTOR, by_order=True)
    assert keys_of(open_regions(root, PHOTOS, partial=True)) == ["a"]
    with pytest.raises(UserError, match="photos/train has no captions"):
        open_regions(root, PHOTOS, partial=True, captions=True)
    rows = Receipt(
        stage=Stage.MANIFEST,
        dataset=FEATURES.dataset,
        split=FEATURES.split,
        shard=0,
        fingerprint="0" * 64,
        counts={"rows": 1},
        files={},
        seconds=0.1,
        created_at=now(),
    )
    root.publish_model(manifest_receipt_path(FEATURES.dataset, FEATURES.split), rows)
    with pytest.raises(UserError, match="were imported by order and belong to no rows"):
        open_regions(root, PHOTOS, partial=True)


# --- damage, found while reading


def test_a_shard_that_was_cut_or_swapped_is_named(root: Root) -> None:
    name = f"features/{extractor_of(root)}/{NAME}/regions-00001.tar"
    content = root.read_bytes(name)
    regions = open_regions(root, NAME)
    root.publish_bytes(name, content[:-1024])
    with pytest.raises(ShardError, match=r"regions-00001.tar has [\d,]+ bytes, [\d,]+ bytes were published"):
        list(regions)
    root.publish_bytes(name, content[:600] + b"\xff" * 100 + content[700:])
    with pytest.raises(ShardError, match=r"regions-00001.tar: key 000000006: "):
        list(regions)
    root.remove(name)
    with pytest.raises(ShardError, match=r"regions-00001.tar is missing"):
        list(regions)


def test_features_of_another_width_than_their_extractors_are_refused(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    publish_features(root, 0, [regions_of("a")])
    record = f"features/{EXTRACTOR[:12]}/extractor.json"
    root.publish_bytes(record, root.read_bytes(record).replace(b'"feature_dim": 4', b'"feature_dim": 8'))
    with pytest.raises(ShardError, match="key a: features of 4 numbers, but this extractor's have 8"):
        list(open_regions(root, PHOTOS, partial=True))


def test_a_member_that_pickles_is_refused_and_never_loaded(root: Root) -> None:
    path = Path(root.path(f"features/{extractor_of(root)}/{NAME}/regions-00001.tar"))
    regions = open_regions(root, NAME)
    size = path.stat().st_size
    payload = b"cos\nsystem\n(S'touch loaded'\ntR."
    with path.open("wb") as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("000000006.pyd")
        info.size = len(payload)
        tar.addfile(info, io.BytesIO(payload))
    with path.open("ab") as stream:
        stream.write(b"\0" * max(size - path.stat().st_size, 0))
    with pytest.raises(ShardError, match=r"unexpected member '000000006.pyd'"):
        list(regions)


def test_a_picture_that_is_none_is_named(root: Root) -> None:
    path = image_shard_path(DATASET, SPLIT, 0)
    images = open_images(root, NAME)
    with root.open(path) as stream:
        members = [encode_image(sample) for sample in read_image_shard(stream, "images")]
    members[1][0] = (members[1][0][0], b"\0" * len(members[1][0][1]))
    root.publish(path, lambda out: write_tar(out, [member for pair in members for member in pair]))
    with pytest.raises(ShardError, match=r"images-00000.tar: key 000000002: not a whole JPEG"):
        list(images)


def test_captions_that_are_no_table_of_captions_are_named(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    publish_features(root, 0, [regions_of("a")])
    publish_pictures(root, 0, ["a"])
    path = captions_path(FEATURES.dataset, FEATURES.split)
    whole = {"caption_id": ["0"], "image_key": ["a"], "text": ["b"]}

    def refused(words: str) -> None:
        with pytest.raises(UserError, match=words):
            open_regions(root, PHOTOS, captions=True, partial=True)

    root.publish_bytes(path, b"no Parquet")
    refused(r"captions.parquet cannot be read \(")
    for name, value, words in (
        ("text", None, "has no column text"),
        ("image_key", [7], "image_key holds int64"),
        ("text", [None], "column text holds .* empty cells"),
    ):
        columns = {key: column for key, column in (whole | {name: value}).items() if column is not None}
        root.publish(path, lambda out, columns=columns: pq.write_table(pa.table(columns), out))
        refused(words)
