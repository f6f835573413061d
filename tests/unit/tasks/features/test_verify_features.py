import io
from pathlib import Path

import pytest
from PIL import Image

import tasks.world
from feature_extraction.config import ExtractorConfig
from feature_extraction.samples.images import ImageSample, encode_image
from feature_extraction.samples.regions import RegionLayout
from feature_extraction.samples.tars import write_tar
from tasks.extract.shard import extract_shard
from tasks.features.feature_sets import FeatureSet, feature_sets, one_feature_set
from tasks.features.imports.config import ImportConfig
from tasks.features.imports.features import import_features
from tasks.features.verify_features import Verification, verify_features
from tasks.records import Receipt, ShardRef, Stage
from tasks.storage import paths
from tasks.storage import root as storage
from tasks.storage.root import Root
from tests.foreign import lxmert_file

DETECTOR = Path(tasks.world.__file__).with_name("detector.safetensors")
RECORD = 512  # Where the first shard's first record begins.


@pytest.fixture
def root(tmp_path) -> Root:
    """A root with the features of five pictures in three shards."""
    root = Root(str(tmp_path / "data"))
    bring_in(root, lxmert_file(tmp_path / "a.tsv", list("abcde")))
    return root


def bring_in(root: Root, path: Path, **changed: object) -> None:
    settings = {"sources": (path,), "detector": "made up", "shard_size": 2, **changed}
    import_features(root, "coco", "train", ImportConfig.model_validate(settings))


def folder(root: Root) -> Path:
    return Path(root.path(one_feature_set(root, "coco/train").folder))


def change(path: Path, offset: int, content: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(content)] = content
    path.write_bytes(whole)


def verify(root: Root, deep: bool = False) -> Verification:
    return verify_features(root, one_feature_set(root, "coco/train"), deep)


def only_problem(found: Verification) -> tuple[str, str, str]:
    (problem,) = found.problems
    return Path(problem.file).name, problem.what, problem.command


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_set_has_no_problem(root, deep):
    seen: list[tuple[int, int]] = []
    features = one_feature_set(root, "coco/train")
    found = verify_features(root, features, deep, lambda done, total: seen.append((done, total)))
    assert found.problems == ()
    assert (found.finished, found.shards, found.samples) == (True, 3, 5)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_truncated_tar_is_named_with_what_to_run(root):
    shard = folder(root) / "regions-00001.tar"
    shard.write_bytes(shard.read_bytes()[:1000])
    name, what, command = only_problem(verify(root))
    assert name == "regions-00001.tar"
    assert "has 1,000 bytes, and was written with 10,240" in what
    assert "regions-00001.json and run: unicoder-vl import-features" in command


def test_following_the_advice_mends_it(root, tmp_path):
    change(folder(root) / "regions-00001.tar", 600, b"\xff")
    assert verify(root, deep=True).problems
    (folder(root) / "regions-00001.json").unlink()
    bring_in(root, tmp_path / "a.tsv")
    assert verify(root, deep=True).problems == ()


def test_a_changed_byte_is_found_by_its_checksum_alone(root):
    change(folder(root) / "regions-00002.tar", RECORD + 64 + 1, b"\x7f")
    assert verify(root).problems == ()
    name, what, _ = only_problem(verify(root, deep=True))
    assert name == "regions-00002.tar"
    assert "is damaged: its checksum" in what


def test_missing_shards_and_receipts_are_named(root):
    (folder(root) / "regions-00000.tar").unlink()
    (folder(root) / "regions-00002.json").unlink()
    found = verify(root)
    assert [(Path(problem.file).name, problem.what.split(":")[0]) for problem in found.problems] == [
        ("regions-00000.tar", "is missing"),
        ("regions-00002.tar", "has no receipt"),
    ]
    assert found.samples == 2


def test_a_shard_of_another_format_version_is_named(root):
    change(folder(root) / "regions-00000.tar", RECORD + 4, (3).to_bytes(2, "little"))
    name, what, _ = only_problem(verify(root))
    assert name == "regions-00000.tar"
    assert "version 3" in what


def test_a_shard_of_another_extractor_is_named(root, tmp_path):
    here = folder(root)
    bring_in(root, tmp_path / "a.tsv", max_regions=4)
    other = next(item for item in feature_sets(root) if Path(root.path(item.folder)) != here)
    for suffix in ("tar", "json"):
        (here / f"regions-00001.{suffix}").write_bytes(root.read_bytes(f"{other.folder}/regions-00001.{suffix}"))
    features = FeatureSet(here.parts[-3], "coco", "train")
    name, what, _ = only_problem(verify_features(root, features))
    assert name == "regions-00001.tar"
    assert "another" in what


def test_a_shard_of_another_layout_is_told_by_its_first_record(root):
    (folder(root) / "manifest.json").unlink()
    layout = RegionLayout(3, 9, "sqrt8")
    change(folder(root) / "regions-00000.tar", RECORD + 8, layout.feature_dim.to_bytes(2, "little"))
    name, what, _ = only_problem(verify(root))
    assert name == "regions-00000.tar"
    assert "9 numbers, not 8" in what


def test_distributions_over_other_classes_than_the_extractors_are_named(root):
    (folder(root) / "manifest.json").unlink()
    change(folder(root) / "regions-00000.tar", RECORD + 4, (2).to_bytes(2, "little"))
    change(folder(root) / "regions-00000.tar", RECORD + 28, (7).to_bytes(4, "little"))
    name, what, _ = only_problem(verify(root))
    assert name == "regions-00000.tar"
    assert "class scores are of 7 classes, not 1600" in what


def test_a_shard_that_is_not_in_the_manifest_is_named(root):
    for suffix in ("tar", "json"):
        content = (folder(root) / f"regions-00001.{suffix}").read_bytes()
        (folder(root) / f"regions-00007.{suffix}").write_bytes(content)
    (problem,) = verify(root).problems
    assert problem.file.endswith("regions-00007.tar")
    assert "not in manifest.json" in problem.what
    assert problem.command == "remove " + " and ".join(problem.remove)
    for file in problem.remove:
        Path(file).unlink()
    assert verify(root, deep=True).problems == ()


def test_a_receipt_alone_that_is_not_in_the_manifest_is_named(root):
    (folder(root) / "regions-00007.json").write_bytes((folder(root) / "regions-00001.json").read_bytes())
    (problem,) = verify(root).problems
    assert [Path(file).name for file in problem.remove] == ["regions-00007.json"]


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_lost_extractor_record_is_written_again_by_the_import(root, tmp_path, content):
    record = folder(root).parents[1] / "extractor.json"
    record.unlink()
    if content is not None:
        record.write_text(content)
    (problem,) = verify(root).problems
    assert problem.file == str(record)
    assert problem.command.endswith("run: unicoder-vl import-features (as before)")
    assert problem.remove == (() if content is None else (str(record),))
    for file in problem.remove:
        Path(file).unlink()
    bring_in(root, tmp_path / "a.tsv")
    assert verify(root, deep=True).problems == ()


@pytest.mark.parametrize("name", ["manifest.json", "regions-00001.json"])
def test_what_cannot_be_read_is_named_once_with_one_thing_to_do(root, tmp_path, name):
    (folder(root) / name).write_text("{")
    (problem,) = verify(root).problems
    assert problem.file == str(folder(root) / name)
    assert problem.what.startswith("is not a ") and ";" not in problem.what
    Path(*problem.remove).unlink()
    bring_in(root, tmp_path / "a.tsv")
    assert verify(root, deep=True).problems == ()


def test_a_set_that_is_not_finished_is_looked_at_as_far_as_it_has_come(root):
    (folder(root) / "manifest.json").unlink()
    found = verify(root)
    assert (found.finished, found.samples) == (False, 5)
    assert only_problem(found)[:2] == ("manifest.json", "is not there, though every shard is")
    (folder(root) / "regions-00001.tar").unlink()
    assert only_problem(verify(root))[:2] == ("regions-00001.tar", "is missing")


def test_records_of_another_extractor_than_the_folders_name_are_named(root):
    record = folder(root).parents[1] / "extractor.json"
    record.write_text(record.read_text().replace('"made up"', '"made otherwise"'))
    name, what, _ = only_problem(verify(root))
    assert (name, what) == ("extractor.json", "is of another extractor")


def test_an_extracted_set_is_held_against_its_pictures(tmp_path):
    root = Root(str(tmp_path / "extracted"))
    config = ExtractorConfig(
        backend="torchvision", model="small", weights=str(DETECTOR), max_regions=4, num_proposals=16, device="cpu"
    )
    for shard in range(2):
        publish_picture(root, shard, colour=100)
        extract_shard(root, ShardRef(dataset="coco", split="train", shard=shard), config)
    publish_picture(root, 2, colour=100)
    name, what, command = only_problem(verify(root, deep=True))
    assert (name, what) == ("regions-00002.tar", "is missing")
    assert command == "run: unicoder-vl extract (as before)"
    publish_picture(root, 1, colour=200)
    problems = {Path(problem.file).name: problem.what for problem in verify(root).problems}
    assert "pictures that have changed since" in problems["regions-00001.tar"]


def test_a_lost_extractor_record_of_an_extracted_set_comes_with_any_shard(tmp_path):
    root = Root(str(tmp_path / "extracted"))
    config = ExtractorConfig(
        backend="torchvision", model="small", weights=str(DETECTOR), max_regions=4, num_proposals=16, device="cpu"
    )
    ref = ShardRef(dataset="coco", split="train", shard=0)
    publish_picture(root, 0, colour=100)
    extract_shard(root, ref, config)
    record = folder(root).parents[1] / "extractor.json"
    record.unlink()
    problem = next(problem for problem in verify(root).problems if problem.file == str(record))
    for file in problem.remove:
        Path(file).unlink()
    extract_shard(root, ref, config)
    assert record.exists()


def publish_picture(root: Root, shard: int, colour: int) -> None:
    """An image shard of one picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (colour, 50, 50)).save(buffer, "JPEG")
    sample = ImageSample(f"{shard:09d}", "a caption", "http://a.example/x.jpg", (64, 48), "0" * 64, buffer.getvalue())
    path = paths.image_shard_path("coco", "train", shard)
    digest = root.publish(path, lambda out: write_tar(out, encode_image(sample)))
    receipt = Receipt(
        stage=Stage.DOWNLOAD, dataset="coco", split="train", shard=shard, fingerprint="", counts={"ok": 1},
        files={path.rpartition("/")[2]: digest}, seconds=0, created_at=storage.now(),
    )  # fmt: skip
    root.publish_model(paths.image_receipt_path("coco", "train", shard), receipt)
