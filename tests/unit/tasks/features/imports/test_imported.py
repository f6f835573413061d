from pathlib import Path

import pytest
from pydantic import ValidationError

from feature_extraction.config import ExtractorConfig
from tasks.errors import UserError
from tasks.extract.feature_manifest import write_feature_manifest
from tasks.extract.pool import ExtractorPool
from tasks.extract.shard import extract_shard
from tasks.features.imports.config import ImportConfig
from tasks.features.imports.features import import_features
from tasks.features.imports.imported import imported_manifest, imported_shard
from tasks.records import ShardRef
from tasks.storage.root import Root
from tests.foreign import lxmert_file


def ref(shard: int) -> ShardRef:
    return ShardRef(dataset="coco", split="train", shard=shard)


def test_later_stages_find_an_import_by_twelve_digits_and_say_what_is_missing(tmp_path):
    root = Root(str(tmp_path / "data"))
    config = ImportConfig(sources=(lxmert_file(tmp_path / "a.tsv", ["x", "y"]),), detector="d", shard_size=1)
    summary = import_features(root, "coco", "train", config)
    found = imported_shard(root, ref(1), summary.extractor[:12])
    assert found.skipped
    assert found.receipt.counts["ok"] == 1
    manifest = imported_manifest(root, "coco", "train", summary.extractor[:12])
    assert manifest.extractor == summary.extractor
    with pytest.raises(UserError, match="no whole shard 00002"):
        imported_shard(root, ref(2), summary.extractor[:12])
    Path(summary.folder, "regions-00001.tar").write_bytes(b"")
    with pytest.raises(UserError, match="run: unicoder-vl import-features"):
        imported_shard(root, ref(1), summary.extractor[:12])
    with pytest.raises(UserError, match="import-features for coco/val"):
        imported_manifest(root, "coco", "val", summary.extractor[:12])


def test_extraction_takes_an_import_for_done(tmp_path):
    root = Root(str(tmp_path / "data"))
    config = ImportConfig(sources=(lxmert_file(tmp_path / "a.tsv", ["x", "y"]),), detector="d", shard_size=1)
    summary = import_features(root, "coco", "train", config)
    extractor = ExtractorConfig(backend="imported", model=summary.extractor[:12])
    assert extract_shard(root, ref(1), extractor).skipped
    with ExtractorPool(1, lambda event: None) as pool:
        assert pool.extract(root.uri, ref(0), extractor).result().skipped
    assert write_feature_manifest(root, "coco", "train", extractor).extractor == summary.extractor
    with pytest.raises(ValidationError, match="twelve hex digits"):
        ExtractorConfig(backend="imported", model="coco-r101-c4")
