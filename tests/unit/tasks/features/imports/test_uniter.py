"""UNITER's image databases become feature shards, with what has no partner named."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from feature_extraction.samples.manifest import parse_manifest
from feature_extraction.samples.regions import RegionSample, read_region_shard
from model.data.store import FeatureStore
from tasks.errors import UserError
from tasks.features.imports.config import ImportConfig, ImportSummary
from tasks.features.imports.features import import_features
from tasks.features.imports.uniter import key_of
from tasks.storage.lmdb_folder import open_lmdb
from tasks.storage.root import Root
from tests.uniter import CLASSES, as_map, as_npz, picture, write_images, write_lmdb

GOLDEN = Path(__file__).parents[4] / "golden" / "uniter_lmdb"
NAMES = ("coco_000000000009.npz", "coco_000000000025.v2.npz", "a b.npz")
THRESHOLD = "feat_th0.2_max100_min10"


@pytest.fixture
def root(tmp_path) -> Root:
    return Root(str(tmp_path / "data"))


@pytest.fixture
def names(tmp_path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("".join(f"thing {number}\n" for number in range(CLASSES)))
    return path


def bring(root: Root, folder: Path, names: Path | None = None, **changed: object) -> ImportSummary:
    config = ImportConfig(sources=(folder,), detector="butd", vocabulary=names, **changed)  # type: ignore[arg-type]
    return import_features(root, "coco", "train", config)


def read_set(summary: ImportSummary) -> tuple[dict[str, RegionSample], str]:
    """All samples by key, and the format of their manifest."""
    folder, samples = Path(summary.folder), {}
    manifest = parse_manifest((folder / "manifest.json").read_bytes(), "it")
    for entry in manifest.shards:
        with (folder / entry.name).open("rb") as stream:
            samples |= {sample.key: sample for sample in read_region_shard(stream, entry.name)}
    return samples, manifest.format


def three(packed=as_map) -> dict[str, bytes]:
    return {name: packed(picture(number, 3 + number)) for number, name in enumerate(NAMES)}


def test_the_official_sample_is_read(root):
    summary = bring(root, GOLDEN / f"{THRESHOLD}_compressed", encoding="fp16")
    assert (summary.form, summary.counts["ok"], summary.counts["regions"]) == ("uniter", 3, 10 + 25 + 79)
    assert (summary.absent, summary.unlisted, summary.ignored) == (0, 0, {})
    samples, form = read_set(summary)
    assert form == "rgn/2"
    assert list(samples) == [f"nlvr2_dev-{number}-0-img0" for number in range(3)]
    first = samples["nlvr2_dev-0-0-img0"]
    assert first.class_scores is not None
    np.testing.assert_allclose(first.features[0, :3], [0.9323333, 0.24101989, 0.44455102], rtol=5e-4)
    np.testing.assert_allclose(first.boxes[0], [364.8277, 342.771, 702.5477, 622.9067], rtol=1e-3)
    assert (first.labels[0], first.size) == (459, (1000, 1000))
    np.testing.assert_allclose([first.scores[0], first.background[0]], [0.14026088, 0.00077352], rtol=1e-3)
    assert first.class_scores.shape == (10, 1601)
    # The largest is stored in full; the record's sum and the half precision of before leave a percent of it.
    np.testing.assert_allclose(first.class_scores[0, [1, 460]], [0.00113999, 0.00122894], rtol=0.02)


@pytest.mark.parametrize("packed", [as_map, as_npz])
def test_every_picture_has_its_name_as_key_and_its_distribution(root, names, tmp_path, packed):
    summary = bring(root, write_images(tmp_path / "all", three(packed)), names, encoding="fp16", shard_size=2)
    samples, _ = read_set(summary)
    assert list(samples) == ["a_b", "coco_000000000009", "coco_000000000025_v2"]
    for number, name in enumerate(NAMES):
        arrays, sample = picture(number, 3 + number), samples[key_of(name)]
        np.testing.assert_array_equal(sample.features, arrays["features"].astype(np.float32))
        np.testing.assert_array_equal(sample.scores, arrays["conf"].astype(np.float32))
        assert sample.class_scores is not None
        exact = arrays["soft_labels"].astype(np.float32)
        assert (0.5 * np.abs(sample.class_scores - exact / exact.sum(1, keepdims=True)).sum(1)).max() < 0.005
    store = FeatureStore(summary.folder)
    assert store.read([0, 1], 9, class_scores=True).class_scores.shape == (2, 5, 1 + CLASSES)
    assert store.manifest.extractor_details["note"] == (
        "boxes are shares of pictures whose size nothing tells: it is taken as 1000 x 1000"
    )


def test_box_counts_come_from_the_list_or_the_folders_name(root, names, tmp_path):
    counts = dict(zip(NAMES, (2, 4, 1), strict=True))
    summary = bring(root, write_images(tmp_path / THRESHOLD, three(), counts), names)
    samples, _ = read_set(summary)
    assert {key: len(sample.boxes) for key, sample in samples.items()} == {
        key_of(name): count for name, count in counts.items()
    }
    samples, _ = read_set(bring(Root(f"{root.uri}-2"), write_images(tmp_path / "feat_numbb2", three()), names))
    assert [len(sample.boxes) for sample in samples.values()] == [2, 2, 2]


def test_a_missing_list_of_box_counts_is_said(root, names, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        summary = bring(root, write_images(tmp_path / THRESHOLD, three()), names)
    assert f"nbb_th0.2_max100_min10.json is not beside {tmp_path / THRESHOLD}" in caplog.text
    assert summary.counts["regions"] == 3 + 4 + 5


@pytest.mark.parametrize("content", ["{", "[]", '{"a.npz": "2"}', '{"a.npz": -1}'])
def test_a_damaged_list_of_box_counts_is_refused(root, names, tmp_path, content):
    folder = write_images(tmp_path / THRESHOLD, three())
    (tmp_path / "nbb_th0.2_max100_min10.json").write_text(content)
    with pytest.raises(UserError, match=r"nbb_th0\.2_max100_min10\.json is no"):
        bring(root, folder, names)


def test_what_has_no_partner_is_counted_and_named(root, names, tmp_path, caplog):
    counts = {NAMES[0]: 2, NAMES[1]: 2, "gone.npz": 5}
    with caplog.at_level(logging.WARNING):
        summary = bring(root, write_images(tmp_path / THRESHOLD, three(), counts), names)
    assert (summary.absent, summary.unlisted, summary.counts["ok"]) == (1, 1, 3)
    assert "1 names in its lists have no entry, such as gone.npz" in caplog.text
    assert "1 entries are not in nbb_th0.2_max100_min10.json, and are read with all of their boxes" in caplog.text


def test_a_damaged_value_is_one_failed_picture_and_what_is_no_feature_is_counted(root, names, tmp_path):
    values = three() | {"b.npz": as_map(picture(7, 3))[:-1], "c.npz": as_npz(picture(8, 2), allow_pickle=np.array(1))}
    summary = bring(root, write_images(tmp_path / "all", values), names)
    assert (summary.counts["ok"], summary.counts["failed"]) == (4, 1)
    assert summary.ignored == {"allow_pickle": 1}
    failed = pq.read_table(Path(summary.folder) / "failed-00000.parquet").to_pylist()
    assert [row["key"] for row in failed] == ["b"]
    assert "neither a msgpack map nor an .npz" in failed[0]["detail"]


def test_a_distribution_that_is_none_fails_its_picture(root, names, tmp_path):
    wrong = picture(7, 3)
    wrong["soft_labels"] = wrong["soft_labels"] / 2
    values = three() | {"b.npz": as_map(wrong), "c.npz": as_map(picture(8, 2, soft_labels=False))}
    summary = bring(root, write_images(tmp_path / "all", values), names)
    failed = pq.read_table(Path(summary.folder) / "failed-00000.parquet").to_pylist()
    assert [row["key"] for row in failed] == ["b", "c"]
    assert "sum to" in failed[0]["detail"]
    assert "no distribution over the classes" in failed[1]["detail"]


def test_distributions_may_be_left_out_and_cannot_be_asked_for_where_there_are_none(root, names, tmp_path):
    folder = write_images(tmp_path / "all", three())
    samples, form = read_set(bring(root, folder, names, class_scores="none"))
    assert form == "rgn/1"
    assert all(sample.class_scores is None for sample in samples.values())
    without = {name: as_map(picture(1, 2, soft_labels=False)) for name in NAMES}
    folder = write_images(tmp_path / "none" / "all", without)
    with pytest.raises(UserError, match="none of the first pictures has a distribution"):
        bring(Root(f"{root.uri}-2"), folder, names, class_scores="all")
    assert read_set(bring(Root(f"{root.uri}-3"), folder, names))[1] == "rgn/1"


def test_a_second_import_finds_everything_done_and_a_changed_value_does_not(root, names, tmp_path):
    folder = write_images(tmp_path / "all", three())
    first = bring(root, folder, names, shard_size=2)
    again = bring(root, folder, names, shard_size=2)
    assert (first.shards, first.skipped, again.skipped) == (2, 0, 2)
    write_lmdb(folder, {NAMES[0]: as_map(picture(9, 4))})
    assert bring(root, folder, names, shard_size=2).replaced == 2


def test_a_stopped_import_goes_on_at_its_shard_and_ends_with_the_same_bytes(root, names, tmp_path):
    folder = write_images(tmp_path / "all", three())
    config = ImportConfig(sources=(folder,), detector="butd", vocabulary=names, shard_size=1)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_features(root, "coco", "train", config, stop)
    resumed = import_features(root, "coco", "train", config)
    assert (resumed.shards, resumed.skipped) == (3, 1)
    at_once = import_features(Root(f"{root.uri}-2"), "coco", "train", config)
    for one, other in zip(*(sorted(Path(s.folder).glob("*.tar")) for s in (resumed, at_once)), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_cut_database_is_refused_before_it_is_read(root, names, tmp_path):
    folder = write_images(tmp_path / "all", three())
    data = folder / "data.mdb"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(UserError, match="it is cut"):
        bring(root, folder, names)
    data.write_bytes(b"not a database" * 1000)
    with pytest.raises(UserError, match="cannot be read as LMDB"):
        bring(root, folder, names)


def test_a_database_that_is_open_in_this_process_is_refused_by_name(root, names, tmp_path):
    folder = write_images(tmp_path / "all", three())
    with open_lmdb(folder), pytest.raises(UserError, match=r"all cannot be read as LMDB \(.*already open"):
        bring(root, folder, names)
    assert bring(root, folder, names).counts["ok"] == 3


def test_a_folder_of_databases_says_which_there_are(root, tmp_path):
    for name in ("all", "feat_numbb36"):
        write_images(tmp_path / "coco" / name, three())
    with pytest.raises(UserError, match=r"holds 2 databases \(all, feat_numbb36\); give one of them"):
        bring(root, tmp_path / "coco")


def test_names_that_would_make_one_key_are_refused(root, names, tmp_path):
    folder = write_images(tmp_path / "all", three() | {"a.b.npz": b"", "a_b.npz": b""})
    with pytest.raises(UserError, match="would both have the key 'a_b'"):
        bring(root, folder, names)
