import shutil
from pathlib import Path

import numpy as np
import pytest

from feature_extraction.foreign.npz import read_npz
from feature_extraction.foreign.tsv import read_lxmert_row
from feature_extraction.samples.regions import RegionSample, read_region_shard
from feature_extraction.samples.tars import ShardError
from tasks.download.outcomes import RowOutcome, write_outcomes
from tasks.errors import UserError
from tasks.features.export_features import export_features
from tasks.features.feature_sets import one_feature_set
from tasks.features.imports.config import ImportConfig
from tasks.features.imports.features import import_features
from tasks.features.verify_features import verify_features
from tasks.records import Outcome
from tasks.storage.paths import outcomes_path
from tasks.storage.root import Root
from tests.foreign import lxmert_file, lxmert_line, made
from tests.uniter import CLASSES, as_map, picture, write_images

REAL = Path(__file__).parents[5] / "shared/data/bottom_up_attention/caffe_coco_features/train2014_obj36.tsv"


@pytest.fixture
def root(tmp_path) -> Root:
    return Root(str(tmp_path / "data"))


def bring_in(root: Root, path: Path, encoding: str = "sqrt8") -> None:
    config = ImportConfig(sources=(path,), detector="made up", encoding=encoding, shard_size=2)  # type: ignore[arg-type]
    import_features(root, "coco", "train", config)


def relative_error(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def check_round_trip(rows: list[bytes], exported: list[bytes], features_error: float) -> None:
    """Exported rows hold what the imported ones held, by score, within the encoding's error."""
    assert len(rows) == len(exported)
    for number, (before, after) in enumerate(zip(rows, exported, strict=True)):
        truth, found = read_lxmert_row(before), read_lxmert_row(after)
        best = np.argsort(-truth.scores, kind="stable")
        assert found.image_id == f"{number:09d}"
        assert found.size == truth.size
        assert isinstance(truth.labels, np.ndarray)
        np.testing.assert_array_equal(found.labels, truth.labels[best])
        np.testing.assert_array_equal(found.boxes, truth.boxes[best])
        np.testing.assert_allclose(found.scores, truth.scores[best], rtol=1e-3)
        assert relative_error(found.features, truth.features[best]) < features_error
        assert (found.features[truth.features[best] == 0] == 0).all()


@pytest.mark.parametrize(("encoding", "error"), [("sqrt8", 0.006), ("fp16", 0.0005)])
def test_tsv_in_and_out_again(root, tmp_path, encoding, error):
    path = lxmert_file(tmp_path / "a.tsv", ["x", "y", "z"], count=5, dim=64)
    bring_in(root, path, encoding)
    out = tmp_path / "out" / "b.tsv"
    summary = export_features(root, one_feature_set(root, "coco/train"), "lxmert", out)
    assert (summary.pictures, summary.regions, summary.bytes) == (3, 15, out.stat().st_size)
    check_round_trip(path.read_bytes().splitlines(), out.read_bytes().splitlines(), error)
    assert [item.name for item in out.parent.iterdir()] == ["b.tsv"]


def test_exported_npz_files_are_read_by_import(root, tmp_path):
    bring_in(root, lxmert_file(tmp_path / "a.tsv", ["x", "y", "z"]), "fp16")
    export_features(root, one_feature_set(root, "coco/train"), "npz", tmp_path / "npz")
    files = sorted((tmp_path / "npz").iterdir())
    assert [file.name for file in files] == ["000000000.npz", "000000001.npz", "000000002.npz"]
    found = read_npz(files[1], 20)
    best = np.argsort(-made(1, 3)["scores"])
    np.testing.assert_array_equal(found.boxes, made(1, 3)["boxes"][best])
    np.testing.assert_allclose(found.features, made(1, 3)["features"][best], rtol=1e-3)


def test_distributions_leave_and_come_back_with_npz_files(root, tmp_path):
    values = {f"{name}.npz": as_map(picture(number, 3)) for number, name in enumerate("ab")}
    names = tmp_path / "names.txt"
    names.write_text("".join(f"thing {number}\n" for number in range(CLASSES)))
    settings = {"detector": "made up", "vocabulary": names, "class_scores": "all", "encoding": "fp16"}

    def stored(source: Path, target: Root) -> list[RegionSample]:
        summary = import_features(target, "coco", "train", ImportConfig(sources=(source,), **settings))
        with (Path(summary.folder) / "regions-00000.tar").open("rb") as stream:
            return list(read_region_shard(stream, "it"))

    first = stored(write_images(tmp_path / "all", values), root)
    assert not verify_features(root, one_feature_set(root, "coco/train"), deep=True).problems
    export_features(root, one_feature_set(root, "coco/train"), "npz", tmp_path / "npz")
    second = stored(tmp_path / "npz", Root(str(tmp_path / "again")))
    for one, other in zip(first, second, strict=True):
        # Labels of the files come from the distribution, and scores with them: rows may stand in another order.
        order = [int(np.flatnonzero((one.boxes == box).all(1))[0]) for box in other.boxes]
        np.testing.assert_allclose(one.class_scores[order], other.class_scores, atol=1e-6)
        np.testing.assert_array_equal(one.features[order], other.features)


def test_a_picture_without_regions_is_exported_as_one(root, tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text(lxmert_line("x", made(0, 2)) + lxmert_line("y", made(1, 0)))
    bring_in(root, path)
    features = one_feature_set(root, "coco/train")
    export_features(root, features, "lxmert", tmp_path / "b.tsv")
    assert len(read_lxmert_row((tmp_path / "b.tsv").read_bytes().splitlines()[1]).boxes) == 0


def test_nothing_is_overwritten_and_a_failed_export_leaves_nothing(root, tmp_path):
    bring_in(root, lxmert_file(tmp_path / "a.tsv", ["x", "y", "z"]))
    features = one_feature_set(root, "coco/train")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="is there already"):
        export_features(root, features, "npz", tmp_path / "there")
    shard = Path(root.path(features.folder)) / "regions-00001.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    for form in ("lxmert", "npz"):
        with pytest.raises(ShardError, match=r"regions-00001\.tar"):
            export_features(root, features, form, tmp_path / "out")  # type: ignore[arg-type]
        assert not list(tmp_path.glob("out*"))


def test_what_a_killed_export_left_is_in_nobodys_way(root, tmp_path):
    bring_in(root, lxmert_file(tmp_path / "a.tsv", ["x"]))
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "old.npz").write_bytes(b"old")
    export_features(root, one_feature_set(root, "coco/train"), "npz", tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["000000000.npz"]


def test_unfinished_and_absent_features_are_not_exported(root, tmp_path):
    with pytest.raises(UserError, match="there are no features of coco/train"):
        one_feature_set(root, "coco/train")
    bring_in(root, lxmert_file(tmp_path / "a.tsv", ["x"]))
    features = one_feature_set(root, "coco/train")
    root.remove(f"{features.folder}/manifest.json")
    with pytest.raises(UserError, match="not finished"):
        export_features(root, features, "lxmert", tmp_path / "b.tsv")


@pytest.mark.skipif(not REAL.is_file(), reason="the real bottom-up-attention rows are not beside the project")
def test_the_real_rows_in_and_out_again(root, tmp_path):
    bring_in(root, REAL)
    export_features(root, one_feature_set(root, "coco/train"), "lxmert", tmp_path / "b.tsv")
    check_round_trip(REAL.read_bytes().splitlines(), (tmp_path / "b.tsv").read_bytes().splitlines(), 0.006)


def test_a_place_that_cannot_be_written_is_named(root, tmp_path):
    bring_in(root, lxmert_file(tmp_path / "a.tsv", ["x"]))
    out = tmp_path / "a.tsv" / "out.tsv"
    with pytest.raises(UserError, match=r"cannot write .*a\.tsv/out\.tsv \(.*\); give another --out"):
        export_features(root, one_feature_set(root, "coco/train"), "lxmert", out)


def publish_url(root: Root, url: str) -> None:
    row = RowOutcome("000000000", url, "000000000", Outcome.OK, width=4, height=4, bytes=4, sha256="ab" * 32)
    root.publish(outcomes_path("coco", "train", 0), lambda stream: write_outcomes(stream, [row]))


def test_pictures_are_named_by_the_last_part_of_their_url_and_by_nothing_above(root, tmp_path):
    bring_in(root, lxmert_file(tmp_path / "a.tsv", ["x"]))
    features = one_feature_set(root, "coco/train")
    for url, name in (("http://h/../../up.jpg", "up"), ("http://h/%2e%2e%2fup.jpg", "up"), ("http://h/..", "..")):
        publish_url(root, url)
        export_features(root, features, "npz", tmp_path / "deep" / "out", ids="name")
        assert [path.name for path in tmp_path.rglob("*.npz")] == [f"{name}.npz"]
        shutil.rmtree(tmp_path / "deep")


@pytest.mark.parametrize(
    "url", ["http://h/a%0Ab.jpg", "http://h/a%09b.jpg", "http://h/%00.jpg", "http://h/", "y" * 300]
)
@pytest.mark.parametrize("form", ["lxmert", "npz"])
def test_a_name_that_breaks_a_table_or_no_file_can_have_is_refused(root, tmp_path, url, form):
    bring_in(root, lxmert_file(tmp_path / "a.tsv", ["x"]))
    publish_url(root, url)
    with pytest.raises(UserError, match="can be no file's; export with --ids key"):
        export_features(root, one_feature_set(root, "coco/train"), form, tmp_path / "out", ids="name")
    assert not list(tmp_path.glob("out*"))
