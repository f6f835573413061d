import json
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from feature_extraction.foreign.tsv import read_lxmert_row
from feature_extraction.samples.manifest import parse_manifest
from feature_extraction.samples.regions import read_region_shard
from model.data.store import FeatureStore
from tasks.download.outcomes import RowOutcome, write_outcomes
from tasks.errors import UserError
from tasks.features.imports.config import ImportConfig
from tasks.features.imports.features import import_features
from tasks.features.imports.pictures import name_function, picture_name
from tasks.records import Outcome, Receipt, ShardRef, Stage
from tasks.storage import paths
from tasks.storage import root as storage
from tasks.storage.root import Root
from tests.foreign import lxmert_file, lxmert_line, made, text, vinvl_lines

REPOSITORY = Path(__file__).parents[5]
DATA = REPOSITORY.parent / "shared/data"
REAL = DATA / "bottom_up_attention/caffe_coco_features/train2014_obj36.tsv"


@pytest.fixture
def root(tmp_path) -> Root:
    return Root(str(tmp_path / "data"))


def config(*sources: Path, **changed: object) -> ImportConfig:
    return ImportConfig(sources=sources, detector="made up", **changed)  # type: ignore[arg-type]


def read_set(root: Root, extractor: str, dataset: str = "coco", split: str = "train"):
    folder = paths.features_folder(extractor, dataset, split)
    manifest = parse_manifest(root.read_bytes(f"{folder}/manifest.json"), "manifest")
    samples = []
    for entry in manifest.shards:
        with root.open(f"{folder}/{entry.name}") as stream:
            samples.append(list(read_region_shard(stream, entry.name)))
    return manifest, samples


def publish_download(root: Root, shards: list[list[tuple[str, Outcome]]], size: tuple[int, int] = (200, 100)) -> None:
    """What the download of these (url, outcome) rows leaves, without the pictures themselves."""
    key = 0
    for number, rows in enumerate(shards):
        outcomes = []
        for url, outcome in rows:
            width, height = size if outcome is Outcome.OK else (None, None)
            outcomes.append(RowOutcome(f"{key:09d}", url, f"{key:09d}", outcome, width=width, height=height))
            key += 1
        ref = ShardRef(dataset="coco", split="train", shard=number)
        root.publish(paths.outcomes_path("coco", "train", number), lambda out, rows=outcomes: write_outcomes(out, rows))
        root.publish_model(paths.image_receipt_path("coco", "train", number), receipt_of(ref))
    root.publish_bytes(paths.manifest_path("coco", "train"), b"rows")
    root.publish_model(
        paths.captions_receipt_path("coco", "train"), receipt_of(ShardRef(dataset="coco", split="train", shard=0))
    )


def receipt_of(ref: ShardRef) -> Receipt:
    return Receipt(
        stage=Stage.DOWNLOAD, dataset=ref.dataset, split=ref.split, shard=ref.shard, fingerprint="", counts={},
        files={}, seconds=0, created_at=storage.now(),
    )  # fmt: skip


def test_rows_are_numbered_in_file_order_and_stored_as_extraction_stores_them(root, tmp_path):
    summary = import_features(
        root, "coco", "train", config(lxmert_file(tmp_path / "a.tsv", ["x", "y", "z"]), shard_size=2)
    )
    manifest, samples = read_set(root, summary.extractor)
    assert [[sample.key for sample in shard] for shard in samples] == [["000000000", "000000001"], ["000000002"]]
    assert summary.counts == {"ok": 3, "failed": 0, "missing": 0, "regions": 9, "cut": 0, "reshaped": 0, "outside": 0}
    assert (manifest.max_regions, manifest.feature_dim, manifest.encoding) == (3, 8, "sqrt8")
    assert manifest.extractor_details["imported_from"] == "lxmert"
    assert manifest.labels[:2] == ("class 0", "class 1")
    truth = made(1, 3)
    best = np.argsort(-truth["scores"])
    found = samples[0][1]
    assert found.labels.tolist() == truth["labels"][best].tolist()
    np.testing.assert_array_equal(found.boxes, truth["boxes"][best])
    np.testing.assert_allclose(found.features, truth["features"][best], atol=0.02)
    assert ((found.features == 0) == (truth["features"][best] == 0)).all()
    assert found.size == (200, 100)


def test_training_opens_imported_features(root, tmp_path):
    summary = import_features(root, "coco", "train", config(lxmert_file(tmp_path / "a.tsv", ["x", "y"])))
    store = FeatureStore(summary.folder)
    assert list(store.keys) == ["000000000", "000000001"]
    assert store.read([1], 10).features.shape == (1, 3, 8)
    store.close()


def test_downloaded_pictures_find_their_rows_by_name_in_any_order(root, tmp_path):
    publish_download(
        root,
        [
            [("http://a.example/p/cat.jpg?s=1", Outcome.OK), ("http://a.example/gone.jpg", Outcome.NOT_FOUND)],
            [("http://a.example/big%20dog.PNG", Outcome.OK), ("http://a.example/mouse.jpg", Outcome.OK)],
        ],
        size=(100, 50),
    )
    path = lxmert_file(tmp_path / "a.tsv", ["big dog", "elsewhere", "cat", "gone", "cat"])
    summary = import_features(root, "coco", "train", config(path, match="name"))
    manifest, samples = read_set(root, summary.extractor)
    assert [[sample.key for sample in shard] for shard in samples] == [["000000000"], ["000000002"]]
    assert [entry.name for entry in manifest.shards] == ["regions-00000.tar", "regions-00001.tar"]
    truth = made(2, 3)
    best = np.argsort(-truth["scores"])
    np.testing.assert_allclose(samples[0][0].boxes, truth["boxes"][best] / 2, rtol=1e-6)
    assert samples[0][0].size == (100, 50)
    assert (summary.counts["ok"], summary.counts["missing"]) == (2, 1)
    assert (summary.unused_rows, summary.repeated_rows) == (2, 1)
    assert summary.examples == {"unused": ("elsewhere", "gone"), "missing": ("mouse",)}
    failed = pq.read_table(f"{summary.folder}/failed-00001.parquet").to_pylist()
    assert failed == [{"key": "000000003", "detail": "no features of 'mouse' in the imported files"}]


def test_downloaded_pictures_are_never_numbered_by_rows_of_a_file(root, tmp_path):
    publish_download(root, [[("http://a.example/cat.jpg", Outcome.OK)]])
    with pytest.raises(UserError, match="add --match"):
        import_features(root, "coco", "train", config(lxmert_file(tmp_path / "a.tsv", ["cat"])))


def test_ids_that_fit_no_picture_are_an_error_before_anything_is_written(root, tmp_path):
    publish_download(root, [[("http://a.example/cat.jpg", Outcome.OK)]])
    with pytest.raises(UserError, match=r"\('x'\) is the name of a picture of coco/train \('cat'\)"):
        import_features(root, "coco", "train", config(lxmert_file(tmp_path / "a.tsv", ["x"]), match="name"))
    assert root.names("features") == []


def test_two_pictures_of_one_name_are_an_error(root, tmp_path):
    publish_download(root, [[("http://a.example/1/cat.jpg", Outcome.OK), ("http://a.example/2/cat.jpg", Outcome.OK)]])
    with pytest.raises(UserError, match="000000001 and an earlier one of coco/train are both named 'cat'"):
        import_features(root, "coco", "train", config(lxmert_file(tmp_path / "a.tsv", ["cat"]), match="name"))


@pytest.mark.parametrize(
    ("match", "image_id", "name"),
    [
        ("name", "COCO_1.jpg", "COCO_1"),
        ("name", "a.b", "a.b"),
        ("number", "132417", "COCO_train2014_000000132417"),
        ("number", "no digits", "no digits"),
    ],
)
def test_what_ids_and_names_are_compared_by(match, image_id, name):
    assert name_function(match)(image_id) == name_function(match)(name)


def test_a_picture_is_named_by_its_file():
    assert picture_name("https://a.example/x/y%20z.jpg?w=3") == "y z"
    assert picture_name("folder/one.two.png") == "one.two"


def test_damaged_rows_are_failed_pictures_and_the_others_stand(root, tmp_path):
    lines = [lxmert_line(f"p{n}", made(n, 3)) for n in range(4)]
    lines[1] = lines[1][:300] + "\n"
    lines[2] = lxmert_line("p2", made(2, 3, dim=9))
    path = tmp_path / "a.tsv"
    path.write_text("".join(lines))
    summary = import_features(root, "coco", "train", config(path))
    assert (summary.counts["ok"], summary.counts["failed"]) == (2, 2)
    failed = pq.read_table(f"{summary.folder}/failed-00000.parquet").to_pylist()
    assert [row["key"] for row in failed] == ["000000001", "000000002"]
    assert "'p2': 9 numbers a region, but 8" in failed[1]["detail"]


def test_a_damaged_first_row_is_a_failed_picture_and_mostly_damaged_files_are_an_error(root, tmp_path):
    rows = [lxmert_line(f"p{number}", made(number, 3)) for number in range(4)]
    path = tmp_path / "a.tsv"
    header = "img_id\timg_h\timg_w\tobjects_id\tobjects_conf\tattrs_id\tattrs_conf\tnum_boxes\tboxes\tfeatures\n"
    path.write_text(header + "".join(rows))
    assert import_features(root, "coco", "train", config(path)).counts["failed"] == 1
    path.write_text("".join(header.replace("img_id", f"h{number}") for number in range(5)) + "".join(rows))
    with pytest.raises(UserError, match="5 of the first 9 pictures cannot be imported, such as 'h0': num_boxes is"):
        import_features(root, "coco", "train", config(path))


def test_the_width_of_most_features_counts(root, tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text(lxmert_line("odd", made(0, 3, 6)) + "".join(lxmert_line(f"p{n}", made(n, 3)) for n in range(3)))
    summary = import_features(root, "coco", "train", config(path))
    assert (summary.counts["ok"], summary.counts["failed"]) == (3, 1)
    assert read_set(root, summary.extractor)[0].feature_dim == 8


def test_pictures_with_boxes_outside_of_them_are_counted(root, tmp_path):
    path = tmp_path / "a.tsv"
    turned = lxmert_line("turned", made(1, 3), size=(100, 200))
    path.write_text(lxmert_line("fine", made(0, 3)) + turned)
    assert import_features(root, "coco", "train", config(path)).counts["outside"] == 1


def test_ids_may_be_any_text(root, tmp_path):
    ids = ["写真", "a.b/c.jpg", "d/e f", "../../x"]
    summary = import_features(root, "coco", "train", config(lxmert_file(tmp_path / "a.tsv", ids)))
    assert (summary.counts["ok"], summary.counts["failed"]) == (4, 0)


def test_links_back_up_in_a_folder_of_npz_files_are_not_followed(root, tmp_path):
    folder = tmp_path / "npz"
    folder.mkdir()
    truth = made(0, 3)
    np.savez(
        folder / "a.npz", x=truth["features"], bbox=truth["boxes"], objects_id=truth["labels"],
        objects_conf=truth["scores"], image_w=200, image_h=100,
    )  # fmt: skip
    (folder / "up").symlink_to(folder)
    assert import_features(root, "coco", "train", config(folder)).counts["ok"] == 1


def test_features_below_zero_need_fp16(root, tmp_path):
    signed = {**made(1, 2), "features": np.array([[1, -2.5], [0.25, 1000]], np.float32)}
    path = tmp_path / "a.tsv"
    path.write_text(lxmert_line("p", signed))
    with pytest.raises(UserError, match="--encoding fp16"):
        import_features(root, "coco", "train", config(path))
    summary = import_features(root, "coco", "train", config(path, encoding="fp16"))
    _, samples = read_set(root, summary.extractor)
    assert sorted(samples[0][0].features.ravel().tolist()) == [-2.5, 0.25, 1, 1000]


def test_fewer_none_and_more_boxes_than_fit(root, tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("".join(lxmert_line(f"p{n}", made(n, count)) for n, count in enumerate((2, 0, 5))))
    summary = import_features(root, "coco", "train", config(path, max_regions=4))
    manifest, samples = read_set(root, summary.extractor)
    assert [len(sample.boxes) for sample in samples[0]] == [2, 0, 4]
    assert (manifest.max_regions, summary.counts["cut"]) == (4, 1)
    kept = np.sort(made(2, 5)["scores"])[:0:-1]
    np.testing.assert_allclose(samples[0][2].scores, kept, rtol=1e-3)


def test_uneven_counts_are_stored_with_room_for_a_hundred(root, tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("".join(lxmert_line(f"p{n}", made(n, n + 1)) for n in range(2)))
    manifest, _ = read_set(root, import_features(root, "coco", "train", config(path)).extractor)
    assert manifest.max_regions == 100


def test_the_vocabulary_names_the_labels_and_has_to_be_long_enough(root, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"thing {n},stuff" for n in range(20)))
    path = lxmert_file(tmp_path / "a.tsv", ["x"])
    manifest, _ = read_set(root, import_features(root, "coco", "train", config(path, vocabulary=names)).extractor)
    assert manifest.labels == tuple(f"thing {n}" for n in range(20))
    names.write_text("one\n")
    with pytest.raises(UserError, match="the vocabulary has 1 classes"):
        import_features(root, "coco", "train", config(path, vocabulary=names))


def test_the_older_form_several_files_and_labels_it_has_not(root, tmp_path):
    for part in range(2):
        truth = made(part, 2)
        row = "\t".join([f"{part}", "200", "100", "2", text(truth["boxes"], "<f4"), text(truth["features"], "<f4")])
        (tmp_path / f"genome.tsv.{part}").write_text(row + "\r\n")
    files = config(tmp_path / "genome.tsv.0", tmp_path / "genome.tsv.1")
    summary = import_features(root, "coco", "train", files)
    manifest, samples = read_set(root, summary.extractor)
    assert manifest.labels == ("object",)
    assert "score 1" in str(manifest.extractor_details["labels"])
    assert [sample.scores.tolist() for sample in samples[0]] == [[1, 1], [1, 1]]


def test_a_folder_of_npz_files_below_folders(root, tmp_path):
    for number, name in enumerate(("b", "a", "in/c")):
        truth = made(number, 3)
        (tmp_path / "npz" / name).parent.mkdir(parents=True, exist_ok=True)
        info = {"objects_id": truth["labels"], "objects_conf": truth["scores"]}
        np.savez(
            tmp_path / "npz" / f"{name}.npz",
            x=truth["features"], bbox=truth["boxes"], num_bbox=3, image_h=100, image_w=200, info=info,  # type: ignore[arg-type]
        )  # fmt: skip
    summary = import_features(root, "coco", "train", config(tmp_path / "npz"))
    _, samples = read_set(root, summary.extractor)
    assert [sample.key for sample in samples[0]] == ["000000000", "000000001", "000000002"]
    np.testing.assert_allclose(samples[0][0].scores, np.sort(made(1, 3)["scores"])[::-1], rtol=1e-3)


def test_vinvls_pair_with_labels_in_another_order(root, tmp_path):
    names = ("dog", "tree", "ant")
    pairs = [vinvl_lines(f"{n}", made(n, 3, 2048), names) for n in range(2)]
    (tmp_path / "train.feature.tsv").write_text("".join(features for features, _ in pairs))
    (tmp_path / "train.label.tsv").write_text("".join(labels for _, labels in reversed(pairs)))
    (tmp_path / "train.feature.lineidx").write_text("0\n")
    summary = import_features(root, "coco", "train", config(tmp_path))
    manifest, samples = read_set(root, summary.extractor)
    assert (summary.form, manifest.feature_dim, manifest.labels) == ("vinvl", 2048, ("ant", "dog", "tree"))
    best = np.argsort(-made(1, 3, 2048)["scores"])
    assert [manifest.labels[label] for label in samples[0][1].labels] == [names[n] for n in best]


def test_features_without_their_labels_say_which_file_is_missing(root, tmp_path):
    (tmp_path / "features.tsv").write_text(vinvl_lines("1", made(1, 1, 2048), ["dog"])[0])
    with pytest.raises(UserError, match=r"no label\.tsv is beside it"):
        import_features(root, "coco", "train", config(tmp_path / "features.tsv"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\n", "has 2 tab-separated fields"),
        ("", "is empty"),
        ("x\t" * 9 + "x\n", "cannot be imported"),
    ],
)
def test_files_of_no_known_form(root, tmp_path, content, message):
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(UserError, match=message):
        import_features(root, "coco", "train", config(tmp_path / "a.tsv"))
    assert root.names("features") == []


def test_missing_files_are_named(root, tmp_path):
    with pytest.raises(UserError, match=r"a\.tsv is not there"):
        import_features(root, "coco", "train", config(tmp_path / "a.tsv"))
    with pytest.raises(UserError, match="holds neither"):
        import_features(root, "coco", "train", config(tmp_path))


def test_the_fingerprint_is_of_the_detector_and_form_not_of_the_files(root, tmp_path):
    first = lxmert_file(tmp_path / "train.tsv", ["x", "y"])
    second = lxmert_file(tmp_path / "val.tsv", ["z"])
    train = import_features(root, "coco", "train", config(first))
    val = import_features(root, "coco", "val", config(second))
    assert train.extractor == val.extractor
    other = import_features(root, "coco", "train", config(first).model_copy(update={"detector": "another"}))
    assert other.extractor != train.extractor


def test_what_stands_is_not_done_again_and_changed_files_are(root, tmp_path):
    path = lxmert_file(tmp_path / "a.tsv", ["x", "y", "z"])
    first = import_features(root, "coco", "train", config(path, shard_size=2))
    again = import_features(root, "coco", "train", config(path, shard_size=2))
    assert (first.skipped, again.skipped, again.counts) == (0, 2, first.counts)
    Path(first.folder, "regions-00001.tar").unlink()
    assert import_features(root, "coco", "train", config(path, shard_size=2)).skipped == 1
    lxmert_file(path, ["x", "y", "other"])
    assert import_features(root, "coco", "train", config(path, shard_size=2)).skipped == 0


def test_shards_of_other_files_are_replaced_and_there_is_no_manifest_meanwhile(root, tmp_path):
    first = import_features(root, "coco", "train", config(lxmert_file(tmp_path / "a.tsv", list("abcd")), shard_size=2))
    assert first.replaced == 0
    rows = (tmp_path / "a.tsv").read_text().splitlines(keepends=True)
    wrong = lxmert_line("d", {**made(3, 3), "features": -made(3, 3)["features"]})
    (tmp_path / "a.tsv").write_text("".join([lxmert_line("a", made(9, 3)), *rows[1:3], wrong]))
    manifest = f"{first.folder}/manifest.json"
    with pytest.raises(UserError, match="features of 'd' are below zero"):
        import_features(root, "coco", "train", config(tmp_path / "a.tsv", shard_size=2))
    assert not Path(manifest).exists()
    (tmp_path / "a.tsv").write_text("".join([lxmert_line("a", made(9, 3)), *rows[1:]]))
    second = import_features(root, "coco", "train", config(tmp_path / "a.tsv", shard_size=2))
    assert (second.extractor, second.replaced, second.counts["ok"]) == (first.extractor, 2, 4)
    assert Path(manifest).exists()


def below_zero(number: int) -> dict:
    return {**made(number, 3), "features": -made(number, 3)["features"]}


@pytest.mark.parametrize("refused_at", [0, 2])
def test_a_refused_import_leaves_nothing_behind(root, tmp_path, refused_at):
    path = tmp_path / "a.tsv"
    path.write_text("".join(lxmert_line(f"{n}", below_zero(n) if n == refused_at else made(n, 3)) for n in range(4)))
    with pytest.raises(UserError, match="--encoding fp16"):
        import_features(root, "coco", "train", config(path, shard_size=1))
    assert not list(Path(root.uri).iterdir())
    import_features(root, "coco", "val", config(lxmert_file(tmp_path / "b.tsv", ["x"]), encoding="sqrt8"))
    stood = sorted(path for path in Path(root.uri).rglob("*") if path.is_file())
    with pytest.raises(UserError, match="--encoding fp16"):
        import_features(root, "coco", "train", config(path, shard_size=1))
    assert sorted(path for path in Path(root.uri).rglob("*") if path.is_file()) == stood


def test_an_import_that_is_refused_at_once_leaves_what_stands(root, tmp_path):
    path = lxmert_file(tmp_path / "a.tsv", ["x", "y"])
    import_features(root, "coco", "train", config(path))
    before = {path: path.read_bytes() for path in Path(root.uri).rglob("*") if path.is_file()}
    path.write_text(lxmert_line("x", below_zero(1)))
    with pytest.raises(UserError, match="--encoding fp16"):
        import_features(root, "coco", "train", config(path, max_regions=3))
    assert {path: path.read_bytes() for path in Path(root.uri).rglob("*") if path.is_file()} == before


def test_a_killed_import_goes_on_at_its_shard(root, tmp_path):
    path = lxmert_file(tmp_path / "a.tsv", [f"p{n}" for n in range(60)], count=20, dim=512)
    program = f"""
        from pathlib import Path
        from tasks.features.imports.config import ImportConfig
        from tasks.features.imports.features import import_features
        from tasks.storage.root import Root
        config = ImportConfig(sources=(Path({str(path)!r}),), detector="made up", shard_size=1)
        import_features(Root({root.uri!r}), "coco", "train", config)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=REPOSITORY)
    deadline = time.monotonic() + 60
    while not list(Path(root.uri).rglob("regions-*.json")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stood = len(list(Path(root.uri).rglob("regions-*.json")))
    assert 0 < stood < 60
    summary = import_features(root, "coco", "train", config(path, shard_size=1))
    assert summary.skipped == stood
    folder = Path(summary.folder)
    assert not list(folder.glob("*.part"))
    whole = Root(str(tmp_path / "whole"))
    unbroken = Path(import_features(whole, "coco", "train", config(path, shard_size=1)).folder)
    assert (folder / "manifest.json").read_bytes() == (unbroken / "manifest.json").read_bytes()


@pytest.mark.slow("processes over many pictures")
def test_memory_does_not_grow_with_the_pictures(tmp_path):
    def peak(pictures: int) -> int:
        """Peak memory of an import in KiB."""
        folder = tmp_path / str(pictures)
        folder.mkdir()
        line = lxmert_line("p{}", made(1, 36, 256))
        with (folder / "a.tsv").open("w") as stream:
            stream.writelines(line.replace("p{}", f"p{n}", 1) for n in range(pictures))
        program = f"""
            import resource
            from pathlib import Path
            from tasks.features.imports.config import ImportConfig
            from tasks.features.imports.features import import_features
            from tasks.storage.root import Root
            config = ImportConfig(sources=(Path({str(folder / "a.tsv")!r}),), detector="made up", shard_size=64)
            import_features(Root({str(folder / "data")!r}), "coco", "train", config)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        shutil.rmtree(folder)
        return int(done.stdout)

    few, many = peak(64), peak(1024)  # 3 and 50 MB of TSV.
    assert many - few < 10_000


@pytest.mark.skipif(not REAL.is_file(), reason="the real bottom-up-attention rows are not beside the project")
def test_the_real_rows_with_their_vocabulary(root):
    names = DATA / "bottom_up_attention/genome/1600-400-20/objects_vocab.txt"
    summary = import_features(root, "coco", "train", config(REAL, vocabulary=names))
    manifest, samples = read_set(root, summary.extractor)
    assert summary.counts == {
        "ok": 10,
        "failed": 0,
        "missing": 0,
        "regions": 360,
        "cut": 0,
        "reshaped": 0,
        "outside": 0,
    }
    assert (manifest.max_regions, manifest.feature_dim, len(manifest.labels)) == (36, 2048, 1600)
    assert json.loads(manifest.model_dump_json())["extractor_details"]["detector"] == "made up"
    assert all((np.diff(sample.scores) <= 0).all() for sample in samples[0])


# --- numbers and boxes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", ["<f2", "<f8"])
@pytest.mark.parametrize("form", ["lxmert", "bottom-up", "vinvl"])
def test_features_of_other_precision_have_their_width_and_values(root, tmp_path, form, numbers):
    truths = [made(n, 3, 2048) for n in range(2)]
    path = tmp_path / "x.feature.tsv"
    if form == "lxmert":
        lines = [lxmert_line(f"{n}", truth, numbers=numbers, boxes=numbers) for n, truth in enumerate(truths)]
    elif form == "bottom-up":
        arrays = [(text(truth["boxes"], numbers), text(truth["features"], numbers)) for truth in truths]
        lines = ["\t".join([f"{n}", "200", "100", "3", *pair]) + "\n" for n, pair in enumerate(arrays)]
    else:
        pairs = [vinvl_lines(f"{n}", truth, ("ant", "dog", "tree"), numbers) for n, truth in enumerate(truths)]
        lines = [features for features, _ in pairs]
        (tmp_path / "x.label.tsv").write_text("".join(labels for _, labels in pairs))
    path.write_text("".join(lines))
    summary = import_features(root, "coco", "train", config(path, encoding="fp16"))
    manifest, samples = read_set(root, summary.extractor)
    assert (summary.form, manifest.feature_dim, summary.counts["ok"]) == (form, 2048, 2)
    for sample, truth in zip(samples[0], truths, strict=True):
        order = np.arange(3) if form == "bottom-up" else np.argsort(-truth["scores"])
        np.testing.assert_allclose(sample.features, truth["features"][order].astype(np.float16), atol=1e-6)
        np.testing.assert_allclose(sample.boxes, truth["boxes"][order], rtol=1e-3)


def test_the_features_of_each_file_have_their_own_precision(root, tmp_path):
    for number, numbers in enumerate(("<f4", "<f2")):
        (tmp_path / f"{number}.tsv").write_text(lxmert_line(f"{number}", made(number, 3, 1024), numbers=numbers))
    summary = import_features(root, "coco", "train", config(tmp_path / "0.tsv", tmp_path / "1.tsv"))
    assert (summary.counts["ok"], read_set(root, summary.extractor)[0].feature_dim) == (2, 1024)


def test_the_number_of_features_may_be_stated_and_has_to_fit(root, tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text(lxmert_line("p", {**made(1, 3), "features": np.zeros((3, 8))}))
    assert read_set(root, import_features(root, "coco", "train", config(path)).extractor)[0].feature_dim == 8
    wider = import_features(root, "coco", "val", config(path, feature_dim=16))
    assert read_set(root, wider.extractor, split="val")[0].feature_dim == 16
    with pytest.raises(
        UserError, match=r"a\.tsv: features have 32 bytes a region, which are not 9 numbers.*feature-dim"
    ):
        import_features(root, "coco", "test", config(path, feature_dim=9))
    arrays = {"x": np.ones((2, 8)), "bbox": np.ones((2, 4)), "objects_id": [1, 2], "objects_conf": [0.5, 0.5]}
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz/a.npz", image_w=9, image_h=9, **arrays)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="features have 8 numbers a region, not the 9 of --feature-dim"):
        import_features(root, "coco", "test", config(tmp_path / "npz", feature_dim=9, boxes="pixels"))


def shares_of(number: int) -> dict:
    truth = made(number, 3)
    return {**truth, "boxes": truth["boxes"] / np.array([200, 100, 200, 100], np.float32)}


@pytest.mark.parametrize("form", ["lxmert", "npz"])
def test_boxes_that_are_shares_are_found_out_and_become_pixels(root, tmp_path, form):
    if form == "lxmert":
        source = tmp_path / "a.tsv"
        source.write_text(lxmert_line("a", shares_of(1)))
    else:
        source = tmp_path / "npz"
        source.mkdir()
        found = shares_of(1)
        np.savez(
            source / "a.npz", x=found["features"], bbox=found["boxes"], objects_id=found["labels"],
            objects_conf=found["scores"], image_w=200, image_h=100,
        )  # fmt: skip
    told = import_features(root, "coco", "train", config(source))
    said = import_features(root, "coco", "train", config(source, boxes="normalised"))
    assert (told.extractor, told.skipped, said.skipped) == (said.extractor, 0, 1)
    _, samples = read_set(root, told.extractor)
    truth = made(1, 3)
    np.testing.assert_allclose(samples[0][0].boxes, truth["boxes"][np.argsort(-truth["scores"])], rtol=1e-4)


def test_boxes_that_may_be_shares_or_pixels_are_refused_unless_the_user_says_it(root, tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text(lxmert_line("a", shares_of(1)) + lxmert_line("b", made(2, 3)))
    with pytest.raises(UserError, match=r"a\.tsv: boxes of 1 of 2 pictures lie between 0 and 1.*--boxes normalised or"):
        import_features(root, "coco", "train", config(path))
    assert root.names("") == []
    assert import_features(root, "coco", "train", config(path, boxes="pixels")).counts["ok"] == 2
    with pytest.raises(UserError, match=r"1 of the first 1 pictures cannot be imported.*boxes reach"):
        import_features(root, "coco", "train", config(lxmert_file(path, ["x"]), boxes="normalised"))


def test_a_later_picture_with_other_boxes_fails_alone_and_can_be_asked_for(root, tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("".join(lxmert_line(f"p{n}", made(n, 3)) for n in range(64)) + lxmert_line("odd", shares_of(1)))
    summary = import_features(root, "coco", "train", config(path, shard_size=60))
    assert (summary.counts["ok"], summary.counts["failed"]) == (64, 1)
    failed = pq.read_table(f"{summary.folder}/failed-00001.parquet").to_pylist()
    assert "'odd': all boxes lie between 0 and 1" in failed[0]["detail"]
    assert import_features(root, "coco", "train", config(path, shard_size=60, boxes="pixels")).counts["failed"] == 0


@pytest.mark.skipif(not REAL.is_file(), reason="the real bottom-up-attention rows are not beside the project")
def test_the_real_rows_in_half_precision_and_with_shares_are_the_same(root, tmp_path):
    path = tmp_path / "half.tsv"
    with path.open("wb") as stream:
        for line in REAL.read_bytes().splitlines():
            fields, found = line.split(b"\t"), read_lxmert_row(line)
            fields[-2] = text(found.boxes / np.array([*found.size, *found.size]), "<f4").encode()
            fields[-1] = text(found.features, "<f2").encode()
            stream.write(b"\t".join(fields) + b"\n")
    half = import_features(root, "coco", "half", config(path))
    whole = import_features(root, "coco", "train", config(REAL))
    assert half.extractor == whole.extractor
    for one, other in zip(
        read_set(root, half.extractor, split="half")[1][0], read_set(root, whole.extractor)[1][0], strict=True
    ):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.01)
        np.testing.assert_allclose(one.features, other.features, atol=float(other.features.max()) / 100)
