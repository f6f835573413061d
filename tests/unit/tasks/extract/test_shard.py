import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import tasks.world
from feature_extraction.config import ExtractorConfig
from feature_extraction.samples.images import ImageSample, encode_image
from feature_extraction.samples.manifest import parse_manifest
from feature_extraction.samples.regions import read_region_shard
from feature_extraction.samples.tars import ShardError, write_tar
from tasks.errors import StageError, UserError
from tasks.extract.feature_manifest import write_feature_manifest
from tasks.extract.pool import ExtractorPool
from tasks.extract.shard import extract_shard
from tasks.extractor import extractor_fingerprint
from tasks.records import Receipt, ShardRef, Stage, fingerprint
from tasks.storage import paths
from tasks.storage import root as storage
from tasks.storage.locks import alone
from tasks.storage.root import Root
from tasks.world.scenes import LABELS, render_scene
from tests.processes import is_running

SHIPPED = Path(tasks.world.__file__).with_name("detector.safetensors")
REPOSITORY = SHIPPED.parents[2]
CONFIG = ExtractorConfig(
    backend="torchvision", model="small", weights=str(SHIPPED), max_regions=6, num_proposals=32, device="cpu"
)
DATASET, SPLIT = "pictures", "train"


def ref(shard: int) -> ShardRef:
    return ShardRef(dataset=DATASET, split=SPLIT, shard=shard)


def scene_sample(number: int) -> ImageSample:
    buffer = io.BytesIO()
    image = render_scene(np.random.default_rng(number), 2, 4).image
    image.save(buffer, "JPEG", quality=92)
    return ImageSample(
        f"{number:09d}", "a caption", f"http://example.org/{number}", image.size, "0" * 64, buffer.getvalue()
    )


def publish_images(root: Root, shard: int, samples: list[ImageSample]) -> None:
    members = [member for sample in samples for member in encode_image(sample)]
    digest = root.publish(paths.image_shard_path(DATASET, SPLIT, shard), lambda out: write_tar(out, members))
    receipt = Receipt(
        stage=Stage.DOWNLOAD,
        dataset=DATASET,
        split=SPLIT,
        shard=shard,
        fingerprint=fingerprint({"download": shard}),
        counts={"ok": len(samples)},
        files={f"images-{shard:05d}.tar": digest},
        seconds=0.1,
        created_at=storage.now(),
    )
    root.publish_model(paths.image_receipt_path(DATASET, SPLIT, shard), receipt)


def finish_download(root: Root) -> None:
    receipt = Receipt(
        stage=Stage.DOWNLOAD, dataset=DATASET, split=SPLIT, shard=0, fingerprint="", counts={}, files={}, seconds=0,
        created_at=storage.now(),
    )  # fmt: skip
    root.publish_model(paths.captions_receipt_path(DATASET, SPLIT), receipt)


@pytest.fixture
def root(tmp_path) -> Root:
    """A root with two image shards of three scenes each."""
    root = Root(str(tmp_path / "data"))
    for shard in range(2):
        publish_images(root, shard, [scene_sample(10 * shard + n) for n in range(3)])
    finish_download(root)
    return root


def folder(config: ExtractorConfig = CONFIG) -> str:
    return paths.features_folder(extractor_fingerprint(config)[0], DATASET, SPLIT)


def read_regions(root: Root, shard: int, config: ExtractorConfig = CONFIG):
    with root.open(f"{folder(config)}/{paths.region_shard_name(shard)}") as stream:
        return list(read_region_shard(stream, "regions"))


def test_one_record_per_image_in_key_order_and_a_receipt_that_counts_them(root):
    result = extract_shard(root, ref(1), CONFIG)
    regions = read_regions(root, 1)
    assert [sample.key for sample in regions] == ["000000010", "000000011", "000000012"]
    assert not result.skipped
    assert result.receipt.counts == {"ok": 3, "failed": 0, "regions": sum(len(sample.boxes) for sample in regions)}
    content = root.read_bytes(f"{folder()}/regions-00001.tar")
    assert result.receipt.files["regions-00001.tar"].sha256 == hashlib.sha256(content).hexdigest()
    assert root.names(folder()) == ["regions-00001.json", "regions-00001.tar"]


def test_the_stored_regions_name_what_the_picture_shows(root):
    extract_shard(root, ref(0), CONFIG)
    shown = render_scene(np.random.default_rng(1), 2, 4).objects
    found = read_regions(root, 0)[1]
    assert {LABELS[label] for label in found.labels[: len(shown)]} == {LABELS[item.label] for item in shown}


def test_progress_counts_images(root):
    seen: list[dict[str, int]] = []
    result = extract_shard(root, ref(0), CONFIG, on_progress=lambda ended: seen.append(dict(ended)))
    assert [counts["ok"] for counts in seen] == [1, 2, 3]
    assert re.fullmatch(r"detector busy \d+%", result.remark)


def test_resume_skips_shard_with_same_fingerprint(root):
    first = extract_shard(root, ref(0), CONFIG)
    before = Path(root.path(f"{folder()}/regions-00000.tar")).stat().st_mtime_ns
    again = extract_shard(root, ref(0), CONFIG.model_copy(update={"batch_size": 1}))
    assert again.skipped
    assert again.receipt == first.receipt
    assert Path(root.path(f"{folder()}/regions-00000.tar")).stat().st_mtime_ns == before


def test_a_shard_is_extracted_again_when_its_images_changed_or_its_tar_is_cut(root):
    extract_shard(root, ref(0), CONFIG)
    publish_images(root, 0, [scene_sample(n) for n in (5, 6)])
    assert not extract_shard(root, ref(0), CONFIG).skipped
    assert [sample.key for sample in read_regions(root, 0)] == ["000000005", "000000006"]
    shard = Path(root.path(f"{folder()}/regions-00000.tar"))
    shard.write_bytes(shard.read_bytes()[:-600])
    assert not extract_shard(root, ref(0), CONFIG).skipped


def test_a_lost_record_of_the_extractor_is_written_again_by_one_shard(root):
    for shard in range(2):
        extract_shard(root, ref(shard), CONFIG)
    record = Path(root.path(paths.extractor_path(extractor_fingerprint(CONFIG)[0])))
    before = record.read_bytes()
    record.unlink()
    assert [extract_shard(root, ref(shard), CONFIG).skipped for shard in range(2)] == [False, True]
    assert record.read_bytes() == before


def test_extracting_twice_gives_the_same_bytes(root):
    digests = set()
    for batch_size in (8, 8):
        extract_shard(root, ref(0), CONFIG.model_copy(update={"batch_size": batch_size}))
        digests.add(hashlib.sha256(root.read_bytes(f"{folder()}/regions-00000.tar")).hexdigest())
        Path(root.path(f"{folder()}/regions-00000.json")).unlink()
    assert len(digests) == 1


def test_a_changed_config_makes_another_folder_and_leaves_the_first(root):
    other = CONFIG.model_copy(update={"max_regions": 3})
    extract_shard(root, ref(0), CONFIG)
    assert not extract_shard(root, ref(0), other).skipped
    assert folder(CONFIG) != folder(other)
    assert max(len(sample.boxes) for sample in read_regions(root, 0, other)) == 3
    assert max(len(sample.boxes) for sample in read_regions(root, 0, CONFIG)) > 3


def test_a_corrupt_picture_is_one_failed_row(root):
    good = [scene_sample(n) for n in range(3)]
    broken = ImageSample(good[1].key, "", "", good[1].size, "", good[1].jpeg[:900])
    publish_images(root, 0, [good[0], broken, good[2]])
    result = extract_shard(root, ref(0), CONFIG)
    assert (result.receipt.counts["ok"], result.receipt.counts["failed"]) == (2, 1)
    assert [sample.key for sample in read_regions(root, 0)] == ["000000000", "000000002"]
    table = pq.read_table(io.BytesIO(root.read_bytes(f"{folder()}/failed-00000.parquet")))
    assert table.column("key").to_pylist() == ["000000001"]
    assert "runcated" in table.column("detail").to_pylist()[0]
    assert set(result.receipt.files) == {"regions-00000.tar", "failed-00000.parquet"}


def test_pictures_that_the_detector_cannot_resize_are_failed_rows_and_the_smallest_is_none(root):
    sizes = [(32, 20_000), (40, 32), (1, 1), (3000, 1)]
    samples = []
    for number, size in enumerate(sizes):
        buffer = io.BytesIO()
        Image.new("RGB", size, "teal").save(buffer, "JPEG")
        samples.append(ImageSample(f"{number:09d}", "", "", size, "", buffer.getvalue()))
    publish_images(root, 0, samples)
    result = extract_shard(root, ref(0), CONFIG)
    assert (result.receipt.counts["ok"], result.receipt.counts["failed"]) == (2, 2)
    assert [sample.key for sample in read_regions(root, 0)] == ["000000001", "000000002"]
    table = pq.read_table(io.BytesIO(root.read_bytes(f"{folder()}/failed-00000.parquet")))
    assert table.column("key").to_pylist() == ["000000000", "000000003"]
    assert all("sizes should be greater than 0" in detail for detail in table.column("detail").to_pylist())
    assert extract_shard(root, ref(0), CONFIG).skipped


def test_weights_that_no_number_comes_of_stop_the_shard_and_are_named(root, tmp_path):
    tensors = {name: tensor.clone() for name, tensor in load_file(SHIPPED).items()}
    for tensor in tensors.values():
        tensor.fill_(torch.finfo(tensor.dtype).max)
    with safe_open(SHIPPED, framework="pt") as file:
        save_file(tensors, tmp_path / "huge.safetensors", metadata=file.metadata())
    config = CONFIG.model_copy(update={"weights": str(tmp_path / "huge.safetensors")})
    with pytest.raises(ShardError, match=r"cannot extract pictures/train/00000: .* plain picture, too .* its weights"):
        extract_shard(root, ref(0), config)
    assert root.names(folder(config)) == []


def test_a_shard_that_another_process_extracts_is_left_alone(root):
    extractor = extractor_fingerprint(CONFIG)[0][:12]
    with (
        alone(root, f"extract-{extractor}-{DATASET}-{SPLIT}-00000", "extracting"),
        pytest.raises(StageError, match="another process is extracting shard pictures/train/00000 under"),
    ):
        extract_shard(root, ref(0), CONFIG)
    assert not root.exists(folder())
    extract_shard(root, ref(0), CONFIG)
    assert not root.exists("locks")


def test_a_shard_without_images_is_a_shard_without_regions(root):
    publish_images(root, 0, [])
    assert extract_shard(root, ref(0), CONFIG).receipt.counts == {"ok": 0, "failed": 0, "regions": 0}
    assert read_regions(root, 0) == []


def test_a_damaged_image_shard_is_an_error_and_publishes_nothing(root):
    publish_images(root, 0, [scene_sample(2), scene_sample(1)])
    with pytest.raises(ShardError, match=r"cannot extract pictures/train/00000: .*not in order"):
        extract_shard(root, ref(0), CONFIG)
    assert root.names(folder()) == []
    assert list(Path(root.path(folder())).iterdir()) == []


def test_an_image_shard_that_is_not_there_is_the_user_s_error(root):
    with pytest.raises(UserError, match=r"pictures/train/00007 is not complete .*unicoder-vl download"):
        extract_shard(root, ref(7), CONFIG)


def test_works_under_a_root_that_is_not_a_local_folder():
    root = Root("memory://extract-test")
    publish_images(root, 0, [scene_sample(0)])
    assert extract_shard(root, ref(0), CONFIG).receipt.counts["ok"] == 1
    assert extract_shard(root, ref(0), CONFIG).skipped
    assert len(read_regions(root, 0)) == 1


@pytest.mark.parametrize(("asked", "stored"), [("top:5", 5), ("none", 0)])
def test_best_classes_are_stored_where_they_are_asked_for(root, asked, stored):
    config = CONFIG.model_copy(update={"class_scores": asked, "selection": "classwise"})
    for shard in range(2):
        extract_shard(root, ref(shard), config)
    assert write_feature_manifest(root, DATASET, SPLIT, config).layout.num_top == stored
    for sample in read_regions(root, 0, config):
        if not stored:
            assert sample.top_labels is None
            continue
        assert sample.top_labels is not None
        assert sample.top_labels.shape == (len(sample.boxes), 5)
        assert all(label in row for label, row in zip(sample.labels[:3], sample.top_labels[:3], strict=True))


def test_the_whole_distribution_is_stored_where_it_is_asked_for(root):
    config = CONFIG.model_copy(update={"class_scores": "all"})
    for shard in range(2):
        extract_shard(root, ref(shard), config)
    manifest = write_feature_manifest(root, DATASET, SPLIT, config)
    assert (manifest.format, manifest.extractor_details["format"]) == ("rgn/2", "rgn/2")
    assert manifest.layout.class_scores == "all"
    samples = [sample for sample in read_regions(root, 0, config) if len(sample.boxes)]
    assert samples
    for sample in samples:
        assert sample.class_scores is not None
        assert sample.class_scores.shape == (len(sample.boxes), 1 + len(manifest.labels))
        np.testing.assert_allclose(sample.class_scores.sum(1), 1, atol=1e-5)
        of_labels = np.take_along_axis(sample.class_scores[:, 1:], sample.labels[:, None].astype(int), 1)[:, 0]
        np.testing.assert_array_equal(of_labels, sample.class_scores[:, 1:].max(1))
        np.testing.assert_allclose(of_labels, sample.scores, atol=0.005)
        np.testing.assert_array_equal(sample.class_scores[:, 0], sample.background)


def test_untrained_features_say_so_wherever_they_are_described(root, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    config = CONFIG.model_copy(update={"weights": "random:3", "vocabulary": str(names), "class_scores": "top:5"})
    for shard in range(2):
        extract_shard(root, ref(shard), config)
    manifest = write_feature_manifest(root, DATASET, SPLIT, config)
    assert manifest.extractor_details["weights"] == "random:3"
    assert str(manifest.extractor_details["warning"]).startswith("random weights")
    assert manifest.layout.num_top == 2  # no more than there are classes
    other = config.model_copy(update={"weights": "random:4"})
    assert extractor_fingerprint(config)[0] != extractor_fingerprint(other)[0]


# --- fingerprint


def test_the_details_are_those_of_features_made_before_there_were_more_fields():
    details = extractor_fingerprint(CONFIG)[1]
    assert details.pop("versions").keys() == {"torch", "torchvision"}
    assert details == {
        "format": "rgn/1",
        "config": {
            "backend": "torchvision",
            "model": "small",
            "max_regions": 6,
            "min_score": 0.0,
            "min_regions": 0,
            "selection": "argmax",
            "nms_threshold": 0.5,
            "num_proposals": 32,
            "encoding": "sqrt8",
        },
        "weights_sha256": hashlib.sha256(SHIPPED.read_bytes()).hexdigest(),
        "vocabulary_sha256": None,
    }


def test_weights_at_a_url_count_by_its_text():
    details = extractor_fingerprint(CONFIG.model_copy(update={"weights": "https://example.org/w.pkl"}))[1]
    assert (details["weights"], details["weights_sha256"]) == ("https://example.org/w.pkl", None)


def test_the_fingerprint_ignores_speed_and_where_the_weights_lie(tmp_path):
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(SHIPPED.read_bytes())
    same = CONFIG.model_copy(update={"batch_size": 1, "device": "auto", "weights": str(moved)})
    assert extractor_fingerprint(same) == extractor_fingerprint(CONFIG)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_regions", 5),
        ("min_score", 0.1),
        ("min_regions", 1),
        ("nms_threshold", 0.4),
        ("selection", "maxconf"),
        ("box", "proposal"),
        ("feature_at", "final"),
        ("class_scores", "top:5"),
        ("class_scores", "all"),
        ("precision", "bf16"),
        ("num_proposals", 64),
        ("encoding", "fp16"),
        ("model", "other"),
    ],
)
def test_whatever_changes_the_features_changes_the_fingerprint(field, value):
    changed = CONFIG.model_copy(update={field: value})
    assert extractor_fingerprint(changed)[0] != extractor_fingerprint(CONFIG)[0]


def test_weights_and_vocabulary_count_by_their_content(tmp_path):
    weights = tmp_path / "w.safetensors"
    vocabulary = tmp_path / "labels.txt"
    seen = set()
    for w, v in ((b"1", "a\nb"), (b"2", "a\nb"), (b"2", "a\nc")):
        weights.write_bytes(w * 10)
        vocabulary.write_text(v)
        os.utime(weights, ns=(len(seen), len(seen)))
        config = CONFIG.model_copy(update={"weights": str(weights), "vocabulary": str(vocabulary)})
        seen.add(extractor_fingerprint(config)[0])
    assert len(seen) == 3
    vocabulary.write_bytes(b"a\r\nc\r\n")
    assert extractor_fingerprint(config)[0] in seen


def test_a_config_file_and_what_it_builds_on_count_by_their_content(tmp_path):
    base, model = tmp_path / "base.yaml", tmp_path / "model.yaml"
    model.write_text('_BASE_: "base.yaml"\n')
    seen = set()
    for depth in (50, 101):
        base.write_text(f"MODEL: {{RESNETS: {{DEPTH: {depth}}}}}\n")
        os.utime(base, ns=(depth, depth))
        details = extractor_fingerprint(CONFIG.model_copy(update={"model": str(model)}))[1]
        seen.add(json.dumps(details))
        assert str(tmp_path) not in json.dumps(details)
    assert len(seen) == 2


@pytest.mark.parametrize("field", ["weights", "vocabulary"])
def test_files_that_cannot_be_read_are_the_user_s_error(field):
    with pytest.raises(UserError, match=rf"extractor\.{field}.*nowhere.*cannot be read"):
        extractor_fingerprint(CONFIG.model_copy(update={field: "nowhere"}))


def test_deciding_what_is_done_imports_no_torch(root):
    extract_shard(root, ref(0), CONFIG)
    extract_shard(root, ref(1), CONFIG)
    program = f"""
        import sys
        from feature_extraction.config import ExtractorConfig
        from tasks.extract.shard import extract_shard
        from tasks.extract.pool import ExtractorPool
        from tasks.extract.feature_manifest import write_feature_manifest
        from tasks.records import ShardRef
        from tasks.storage.root import Root
        config = ExtractorConfig.model_validate_json('''{CONFIG.model_dump_json()}''')
        ref = ShardRef(dataset={DATASET!r}, split={SPLIT!r}, shard=0)
        assert extract_shard(Root({root.uri!r}), ref, config).skipped
        with ExtractorPool(2, print) as pool:
            assert pool.extract({root.uri!r}, ref, config).result().skipped
            assert not pool._workers._workers._processes
        write_feature_manifest(Root({root.uri!r}), {DATASET!r}, {SPLIT!r}, config)
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=REPOSITORY, check=True)


# --- manifest


def test_the_feature_manifest_lists_every_shard_and_what_made_it(root):
    receipts = [extract_shard(root, ref(shard), CONFIG).receipt for shard in range(2)]
    manifest = write_feature_manifest(root, DATASET, SPLIT, CONFIG)
    assert [entry.name for entry in manifest.shards] == ["regions-00000.tar", "regions-00001.tar"]
    assert [entry.samples for entry in manifest.shards] == [3, 3]
    assert [entry.sha256 for entry in manifest.shards] == [
        r.files[f"regions-0000{r.shard}.tar"].sha256 for r in receipts
    ]
    assert (manifest.max_regions, manifest.feature_dim, manifest.encoding) == (6, 128, "sqrt8")
    assert manifest.labels == LABELS
    assert fingerprint(manifest.extractor_details) == manifest.extractor == extractor_fingerprint(CONFIG)[0]
    path = paths.feature_manifest_path(manifest.extractor, DATASET, SPLIT)
    assert parse_manifest(root.read_bytes(path), path) == manifest


def test_a_manifest_goes_before_a_shard_that_it_lists_is_extracted_again(root):
    for shard in range(2):
        extract_shard(root, ref(shard), CONFIG)
    write_feature_manifest(root, DATASET, SPLIT, CONFIG)
    publish_images(root, 1, [scene_sample(20)])
    extract_shard(root, ref(0), CONFIG)
    assert "manifest.json" in root.names(folder())
    extract_shard(root, ref(1), CONFIG)
    assert "manifest.json" not in root.names(folder())
    assert write_feature_manifest(root, DATASET, SPLIT, CONFIG).shards[1].samples == 1


def test_a_manifest_of_missing_shards_is_refused_and_names_them(root):
    extract_shard(root, ref(0), CONFIG)
    with pytest.raises(UserError, match=r"1 of 2 shards of pictures/train .* \(1\); run: unicoder-vl extract"):
        write_feature_manifest(root, DATASET, SPLIT, CONFIG)
    assert "manifest.json" not in root.names(folder())


def test_a_manifest_before_the_download_is_complete_is_refused(root):
    extract_shard(root, ref(0), CONFIG)
    extract_shard(root, ref(1), CONFIG)
    Path(root.path(paths.image_receipt_path(DATASET, SPLIT, 0))).unlink()
    with pytest.raises(UserError, match="run: unicoder-vl download"):
        write_feature_manifest(root, DATASET, SPLIT, CONFIG)
    with pytest.raises(UserError, match="run: unicoder-vl download"):
        write_feature_manifest(root, DATASET, "val", CONFIG)


# --- worker processes


@pytest.mark.slow("workers that load a detector")
def test_workers_write_the_bytes_that_this_process_writes(root):
    with ExtractorPool(2, lambda event: None) as pool:
        results = [pool.extract(root.uri, ref(shard), CONFIG).result() for shard in range(2)]
        assert len(pool._workers._workers._processes) == 1  # an idle worker is used again
        broken = CONFIG.model_copy(update={"model": "large"})
        with pytest.raises(UserError, match=r"set extractor\.model='small'"):
            pool.extract(root.uri, ref(0), broken).result()
    for result in results:
        name = f"regions-{result.receipt.shard:05d}"
        Path(root.path(f"{folder()}/{name}.json")).unlink()
        here = extract_shard(root, ref(result.receipt.shard), CONFIG)
        assert here.receipt.files == result.receipt.files


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has a parent-death signal")
@pytest.mark.slow("workers that load a detector")
def test_workers_die_with_a_parent_that_is_killed(root):
    program = f"""
        import threading, time
        from feature_extraction.config import ExtractorConfig
        from tasks.extract.pool import ExtractorPool
        from tasks.records import ShardRef

        if __name__ == "__main__":
            config = ExtractorConfig.model_validate_json('''{CONFIG.model_dump_json()}''')
            refs = [ShardRef(dataset={DATASET!r}, split={SPLIT!r}, shard=shard) for shard in range(2)]
            with ExtractorPool(2, str) as pool:
                # The thread that asks for the worker ends long before the worker does.
                thread = threading.Thread(target=lambda: pool.extract({root.uri!r}, refs[0], config).result())
                thread.start()
                thread.join()
                assert not pool.extract({root.uri!r}, refs[1], config).result().skipped
                print(*pool._workers._workers._processes, flush=True)
                time.sleep(60)
    """
    script = Path(root.path("parent.py"))
    script.write_text(textwrap.dedent(program))
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    try:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 1
        os.kill(workers[0], 0)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 10
    while is_running(workers[0]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(workers[0])
