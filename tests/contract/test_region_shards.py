import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_extraction.samples.class_scores import spread_best_classes
from feature_extraction.samples.manifest import FeatureManifest, parse_manifest
from feature_extraction.samples.regions import (
    RegionLayout,
    RegionSample,
    decode_layout,
    decode_regions,
    encode_regions,
    read_region_shard,
)
from feature_extraction.samples.tars import ShardError, write_tar


def make_sample(key: str, count: int, dim: int, seed: int = 0, num_top: int = 0) -> RegionSample:
    """Regions whose features look like a detector's after its ReLU: a third exact zeros, a heavy tail."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((count, dim)).astype(np.float32) ** 2
    features[rng.random((count, dim)) < 1 / 3] = 0
    top_left = rng.uniform(0, 300, (count, 2))
    return RegionSample(
        key=key,
        size=(640, 480),
        boxes=np.concatenate([top_left, top_left + rng.uniform(5, 100, (count, 2))], axis=1).astype(np.float32),
        labels=rng.integers(0, 1600, count).astype(np.int16),
        scores=np.sort(rng.random(count).astype(np.float32))[::-1],
        background=rng.random(count).astype(np.float32),
        features=features,
        top_labels=rng.integers(0, 1600, (count, num_top)).astype(np.int16) if num_top else None,
        top_scores=np.sort(rng.random((count, num_top)).astype(np.float32))[:, ::-1] if num_top else None,
    )


def shard(samples: list[RegionSample], layout: RegionLayout) -> bytes:
    buffer = io.BytesIO()
    write_tar(buffer, ((f"{sample.key}.rgn", encode_regions(sample, layout)) for sample in samples))
    return buffer.getvalue()


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.5, 2, 8, 40])
@pytest.mark.parametrize("num_classes", [1, 80, 1600])
def test_a_decoded_distribution_is_close_to_the_exact_one(num_classes, temperature):
    exact = softmax(temperature * np.random.default_rng(1).standard_normal((50, 1 + num_classes)))
    sample = replace(make_sample("k", 50, 4), class_scores=exact, background=exact[:, 0])
    back = decode_regions(
        "k", encode_regions(sample, RegionLayout(60, 4, "fp16", num_classes=num_classes))
    ).class_scores
    np.testing.assert_allclose(back.sum(1), 1, atol=2e-6)
    assert (0.5 * np.abs(back - exact).sum(1)).max() < 0.006
    known = back > 0
    assert np.where(known, back * np.log(np.where(known, back / np.where(known, exact, 1), 1)), 0).sum(1).max() < 2e-4


def test_a_certain_background_leaves_no_foreground():
    exact = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    sample = replace(make_sample("k", 2, 4), class_scores=exact, background=exact[:, 0])
    back = decode_regions("k", encode_regions(sample, RegionLayout(3, 4, "fp16", num_classes=2)))
    assert back.class_scores.tolist() == exact.tolist()


def test_what_the_best_classes_leave_is_spread_over_the_others():
    top_labels, top_scores = np.array([[2, 0], [1, 3]], np.int16), np.array([[0.5, 0.1], [0.75, 0.25]], np.float32)
    found = np.empty((2, 5), np.float32)
    spread_best_classes(top_labels, top_scores, np.array([0.2, 0], np.float32), found)
    np.testing.assert_allclose(found, [[0.2, 0.1, 0.1, 0.5, 0.1], [0, 0, 0.75, 0, 0.25]], atol=1e-6)
    # All classes are known, but their half floats and the background's sum to 1.1: the foreground gives way.
    spread_best_classes(np.array([[1, 0]]), np.array([[0.6, 0.3]]), np.array([0.2]), all_known := np.empty((1, 3)))
    np.testing.assert_allclose(all_known, [[0.2, 0.8 / 3, 0.8 * 2 / 3]])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 7), st.integers(1, 40), st.sampled_from(["sqrt8", "fp16"]), st.integers(0, 99), st.integers(0, 3))
def test_regions_round_trip(count, dim, encoding, seed, num_top):
    sample = make_sample("k", count, dim, seed, num_top)
    layout = RegionLayout(7, dim, encoding, num_top)
    record = encode_regions(sample, layout)
    assert decode_layout("k", record) == (layout, (640, 480), count)
    back = decode_regions("k", record)
    assert (back.key, back.size) == ("k", (640, 480))
    np.testing.assert_array_equal(back.boxes, sample.boxes)
    np.testing.assert_array_equal(back.labels, sample.labels)
    np.testing.assert_array_equal(back.scores, sample.scores.astype(np.float16))
    np.testing.assert_array_equal(back.background, sample.background.astype(np.float16))
    assert back.features.shape == (count, dim)
    if num_top:
        np.testing.assert_array_equal(back.top_labels, sample.top_labels)
        np.testing.assert_array_equal(back.top_scores, sample.top_scores.astype(np.float16))
    again = encode_regions(back, layout)
    assert again[: layout.scales_offset] == record[: layout.scales_offset]
    rest = slice(layout.top_labels_offset, layout.features_offset)
    assert again[rest] == record[rest]
    # A decoded value may lie one rounding of f32 above its scale, and the scale is rounded up: by one step of f16.
    scales, before = (np.frombuffer(one, "<u2", layout.max_regions, layout.scales_offset) for one in (again, record))
    assert (scales.astype(int) - before).max(initial=0) <= 1 and (scales >= before).all()


def test_sqrt8_keeps_zeros_and_nearly_everything_else():
    sample = make_sample("k", 100, 2048)
    back = decode_regions("k", encode_regions(sample, RegionLayout(100, 2048, "sqrt8")))
    error = np.linalg.norm(back.features - sample.features) / np.linalg.norm(sample.features)
    assert error <= 0.006
    assert (back.features[sample.features == 0] == 0).all()


def test_fp16_is_exact_to_half_precision_and_keeps_negatives():
    sample = make_sample("k", 5, 64)
    sample.features[0, :8] = -1.25
    back = decode_regions("k", encode_regions(sample, RegionLayout(5, 64, "fp16")))
    np.testing.assert_array_equal(back.features, sample.features.astype(np.float16))


def test_sqrt8_refuses_a_negative_feature_and_says_what_to_do():
    sample = make_sample("k7", 5, 64)
    sample.features[3, 2] = -0.01
    with pytest.raises(ShardError, match=r"key k7: feature -0.01 is negative .*extractor.encoding to 'fp16'"):
        encode_regions(sample, RegionLayout(5, 64, "sqrt8"))


def test_a_hundred_regions_of_2048_take_208_kilobytes_in_a_tar():
    layout = RegionLayout(100, 2048, "sqrt8")
    assert layout.tar_bytes <= 208_384  # 204,800 of them features; the tar adds 512 and rounds up
    one, two = (len(shard([make_sample(str(n), 100, 2048) for n in range(count)], layout)) for count in (20, 40))
    assert (two - one) / 20 <= layout.tar_bytes + 512  # a tar ends on a multiple of 10,240


def test_records_lie_at_a_fixed_stride():
    layout = RegionLayout(4, 16, "sqrt8")
    content = shard([make_sample(f"k{n}", n, 16, n) for n in range(5)], layout)
    for n in range(5):
        record = content[n * layout.tar_bytes + 512 :][: layout.record_bytes]
        np.testing.assert_array_equal(decode_regions(f"k{n}", record).boxes, make_sample(f"k{n}", n, 16, n).boxes)


def test_equal_samples_make_equal_bytes():
    layout = RegionLayout(4, 16, "sqrt8")
    samples = [make_sample(f"k{n}", 3, 16, n) for n in range(3)]
    assert shard(samples, layout) == shard(samples, layout)
    with tarfile.open(fileobj=io.BytesIO(shard(samples, layout))) as tar:
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.9])
def test_a_cut_shard_is_refused(keep):
    layout = RegionLayout(4, 16, "sqrt8")
    content = shard([make_sample(f"k{n}", 3, 16) for n in range(9)], layout)
    end = int(9 * layout.tar_bytes * keep)
    with pytest.raises(ShardError, match=r"regions-00042\.tar"):
        list(read_region_shard(io.BytesIO(content[:end]), "regions-00042.tar"))


def test_a_shard_cut_between_two_records_is_refused():
    layout = RegionLayout(4, 16, "sqrt8")
    content = shard([make_sample(f"k{n}", 3, 16) for n in range(9)], layout)
    with pytest.raises(ShardError, match="end marker"):
        list(read_region_shard(io.BytesIO(content[: 5 * layout.tar_bytes]), "regions-00042.tar"))


def test_too_many_regions_or_another_width_are_refused():
    with pytest.raises(ShardError, match="5 regions x 16"):
        encode_regions(make_sample("k", 5, 16), RegionLayout(4, 16, "sqrt8"))
    with pytest.raises(ShardError, match="5 regions x 16"):
        encode_regions(make_sample("k", 5, 16), RegionLayout(5, 17, "sqrt8"))


def test_webdataset_reads_our_shards(tmp_path):
    layout = RegionLayout(4, 16, "sqrt8")
    samples = [make_sample(f"00000{n}", n, 16, n) for n in range(5)]
    path = tmp_path / "regions-00000.tar"
    path.write_bytes(shard(samples, layout))
    read = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [one["__key__"] for one in read] == [sample.key for sample in samples]
    for one, sample in zip(read, samples, strict=True):
        assert one["rgn"] == encode_regions(sample, layout)


def test_a_manifest_without_top_labels_has_the_bytes_it_had_before_there_were_any():
    fields = {"max_regions": 4, "feature_dim": 16, "encoding": "sqrt8", "labels": ("cat",), "extractor": "e" * 64}
    plain = FeatureManifest(**fields, extractor_details={"a": 1}, shards=())
    text = (
        '{"format":"rgn/1","max_regions":4,"feature_dim":16,"encoding":"sqrt8","labels":["cat"],'
        f'"extractor":"{"e" * 64}","extractor_details":{{"a":1}},"shards":[]}}'
    )
    assert plain.model_dump_json() == text
    assert parse_manifest(text, "manifest.json").layout == RegionLayout(4, 16, "sqrt8")
    top = FeatureManifest(**fields, num_top=5, extractor_details={}, shards=())
    assert parse_manifest(top.model_dump_json(), "manifest.json").layout == RegionLayout(4, 16, "sqrt8", 5)


def test_a_manifest_of_class_scores_is_of_a_format_that_older_readers_refuse():
    fields = {"max_regions": 4, "feature_dim": 16, "encoding": "sqrt8", "labels": ("cat", "dog"), "extractor": "e" * 64}
    fields |= {"extractor_details": {}, "shards": ()}
    made = FeatureManifest(**fields, format="rgn/2", num_classes=2)
    assert parse_manifest(made.model_dump_json(), "manifest.json").layout == RegionLayout(4, 16, "sqrt8", 0, 2)
    for wrong in ({"num_classes": 2}, {"format": "rgn/2"}, {"format": "rgn/2", "num_classes": 3}):
        with pytest.raises(ShardError, match="class scores of"):
            parse_manifest(json.dumps(fields | wrong), "manifest.json")


@pytest.mark.parametrize("name", ["/etc/cron.rgn", "../up.rgn", "a/b.rgn", "..rgn", "a b.rgn", "a\\b.rgn"])
def test_a_key_that_leads_out_of_a_folder_is_refused(name):
    buffer = io.BytesIO()
    write_tar(buffer, [(name, encode_regions(make_sample("k", 2, 4), RegionLayout(4, 4, "fp16")))])
    with pytest.raises(ShardError, match="has no key of letters"):
        list(read_region_shard(io.BytesIO(buffer.getvalue()), "regions-00000.tar"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_file_is_refused(kind):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("000000001.rgn")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(ShardError, match="000000001"):
        list(read_region_shard(io.BytesIO(buffer.getvalue()), "regions-00000.tar"))


@pytest.mark.parametrize("field", [{"name": "../../.bashrc"}, {"name": "/etc/passwd"}, {"sha256": "../../../tmp/x"}])
def test_a_manifest_names_no_file_outside_its_folder(field):
    entry = {"name": "regions-00000.tar", "samples": 1, "bytes": 1, "sha256": "0" * 64} | field
    about = {"max_regions": 1, "feature_dim": 1, "encoding": "fp16", "labels": []}
    about |= {"extractor": "e", "extractor_details": {}, "shards": [entry]}
    with pytest.raises(ShardError, match="not a feature manifest"):
        parse_manifest(json.dumps(about), "manifest.json")
