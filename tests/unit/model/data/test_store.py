import gc
import logging
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_extraction.samples.regions import read_region_shard
from feature_extraction.samples.tars import ShardError
from model.config import LoaderConfig
from model.data.captions import load_captions
from model.data.feed import prefetch
from model.data.store import FeatureStore, LostShardError, open_store
from model.data.tokenizer import load_tokens, load_vocabulary
from model.families.embeddings import dequantise
from model.objectives.batches import PretrainBatches
from model.objectives.config import PretrainConfig
from tests.toy import WORDS, make_sample, write_feature_set

SKIP = LoaderConfig(on_bad_shard="skip")


def test_read_gives_what_the_slow_shard_reader_gives(make_world):
    source, _ = make_world([[0, 1], [2], [], [3, 4, 5], [6], [7], [0], [1, 2]], [(0, "red")])
    store = FeatureStore(source.features_path)
    slow = []
    for entry in store.manifest.shards:
        with Path(store.folder, entry.name).open("rb") as stream:
            slow += list(read_region_shard(stream, entry.name))
    rows = [7, 0, 3, 3, 2]
    batch = store.read(rows, max_regions=5)
    features = dequantise(batch).numpy()
    for slot, row in enumerate(rows):
        sample, count = slow[row], len(slow[row].boxes)
        assert store.keys[row] == sample.key
        assert batch.mask[slot].tolist() == [True] * count + [False] * (3 - count)
        np.testing.assert_allclose(features[slot, :count], sample.features, rtol=1e-5)
        np.testing.assert_array_equal(batch.boxes[slot, :count].numpy(), sample.boxes)
        np.testing.assert_array_equal(batch.labels[slot, :count].numpy(), sample.labels)
        np.testing.assert_array_equal(batch.scores[slot, :count].numpy(), sample.scores)
        assert batch.sizes[slot].tolist() == [100, 80]


def test_read_takes_the_best_regions_when_fewer_are_wanted(eight_pairs):
    store = FeatureStore(eight_pairs[0].features_path)
    few, all_of_them = store.read([2], 2), store.read([2], 5)
    assert few.features.shape == (1, 2, 24)
    assert torch.equal(few.features[0], all_of_them.features[0, :2])


def test_images_without_regions_still_have_one_masked_place(make_world):
    source, _ = make_world([[], []], [(0, "red")])
    batch = FeatureStore(source.features_path).read([0, 1], max_regions=5)
    assert batch.features.shape == (2, 1, 24)
    assert not batch.mask.any()


def test_a_missing_or_cut_shard_is_named(eight_pairs):
    folder = Path(eight_pairs[0].features_path)
    shard = folder / "regions-00001.tar"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ShardError, match=r"regions-00001\.tar"):
        FeatureStore(folder)
    shard.unlink()
    with pytest.raises(ShardError, match=r"regions-00001\.tar"):
        FeatureStore(folder)


def test_an_unfinished_feature_set_is_refused(tmp_path):
    with pytest.raises(ShardError, match="not finished"):
        FeatureStore(tmp_path)


def test_reading_no_image_gives_tensors_of_the_right_width(eight_pairs):
    regions = FeatureStore(eight_pairs[0].features_path).read([], 5)
    assert regions.features.shape == (0, 1, 24)
    assert regions.boxes.shape == (0, 1, 4)


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_threads_read_what_one_reads(eight_pairs, threads):
    one = FeatureStore(eight_pairs[0].features_path, loader=LoaderConfig(read_threads=1))
    many = FeatureStore(eight_pairs[0].features_path, loader=LoaderConfig(read_threads=threads))
    rows = [7, 3, 3, 0, 5, 1]
    expected, found = one.read(rows, 5), many.read(rows, 5)
    for name in expected.given():
        assert torch.equal(getattr(expected, name), getattr(found, name)), name


def test_a_batch_keeps_its_values_while_any_tensor_of_it_lives(eight_pairs):
    store = FeatureStore(eight_pairs[0].features_path)
    kept = [store.read([row], 5).features[0, 1:] for row in range(8)]
    again = [store.read([row], 5).features[0, 1:].clone() for row in range(8)]
    assert all(torch.equal(old, new) for old, new in zip(kept, again, strict=True))


def test_memory_of_a_batch_is_used_again_once_it_is_let_go(eight_pairs):
    store = FeatureStore(eight_pairs[0].features_path)
    address = store.read([0, 1], 5).features.data_ptr()
    gc.collect()
    assert store.read([2, 3], 5).features.data_ptr() == address


@pytest.fixture
def many_shards(tmp_path) -> Path:
    """Forty shards of two images; image n shows the label n % 8 alone."""
    samples = [make_sample(f"{number:09d}", [number % 8], 16, number) for number in range(80)]
    write_feature_set(tmp_path / "many", samples, 2, 3, 16)
    return tmp_path / "many"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def few_files() -> Iterator[int]:
    """At most this many files may be open, a few more than are now."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = max(int(file.name) for file in Path("/proc/self/fd").iterdir()) + 24
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limits[1]))
    yield soft
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_more_shards_than_files_may_be_open_are_read_by_many_threads(many_shards, few_files):
    store = FeatureStore(many_shards, loader=LoaderConfig(read_threads=2))
    wrong = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(60):
            rows = rng.integers(80, size=12)
            if store.read(rows, 3).labels[:, 0].tolist() != (rows % 8).tolist():
                wrong.append(rows)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert open_files() < few_files
    before = open_files()
    store.close()
    assert open_files() < before


def test_an_index_is_not_trusted_over_what_a_record_says(many_shards, tmp_path):
    FeatureStore(many_shards, tmp_path / "cache").close()
    shards = many_shards / "regions-00001.tar", many_shards / "regions-00002.tar"
    shards[1].write_bytes(shards[0].read_bytes())
    store = FeatureStore(many_shards, tmp_path / "cache")
    with pytest.raises(ShardError, match=r"regions-00002\.tar: holds b'000000002\.rgn' where b'000000004\.rgn'"):
        store.read([4], 3)


def scramble(shard: Path, at: int, content: bytes) -> None:
    with shard.open("r+b") as stream:
        stream.seek(at)
        stream.write(content)


def test_a_record_that_does_not_fit_the_manifest_is_told_apart(many_shards):
    store, shard = FeatureStore(many_shards), many_shards / "regions-00003.tar"
    header = 512
    for at, content, words in [
        (0, b"RGNX", "not a .rgn record"),
        (4, b"\3\0", ".rgn version 3"),
        (6, b"\7\0", "7 regions x 16, sqrt8, but the manifest says 3 regions x 16, sqrt8"),
        (8, b"\7\0", "3 regions x 7"),
        (10, b"\1\0", "3 regions x 16, fp16"),
        (20, b"\4\0\0\0", "damaged .rgn header"),
        (24, b"\5\0\0\0", "with class scores top:5"),
    ]:
        with shard.open("rb") as stream:
            stream.seek(header + at)
            before = stream.read(len(content))
        scramble(shard, header + at, content)
        with pytest.raises(ShardError, match=rf"regions-00003\.tar: key 000000006.*{words}.*on_bad_shard='skip'"):
            store.read([7, 6], 3)
        scramble(shard, header + at, before)
    assert store.read([6], 3).labels.tolist() == [[6]]


def test_a_record_whose_values_would_spoil_a_batch_is_named(many_shards):
    store, shard = FeatureStore(many_shards), many_shards / "regions-00003.tar"
    nan_box, nan_scale = np.array([np.nan], "<f4").tobytes(), np.array([np.inf], "<f2").tobytes()
    for at, content, words in [
        (store.layout.labels_offset, b"\x08\0", "label 8, but the manifest has 8"),
        (store.layout.labels_offset, b"\xff\xff", "label -1"),
        (64 + 3 * 4, nan_box, "a box or a scale that is not finite"),
        (store.layout.scales_offset, nan_scale, "a box or a scale that is not finite"),
    ]:
        with shard.open("rb") as stream:
            stream.seek(512 + at)
            before = stream.read(len(content))
        scramble(shard, 512 + at, content)
        with pytest.raises(ShardError, match=rf"regions-00003\.tar: 000000006 has {words}.*on_bad_shard='skip'"):
            store.read([7, 6], 3)
        scramble(shard, 512 + at, before)
    # Image 6 has one region: what lies in the places of the others is never looked at.
    scramble(shard, 512 + store.layout.labels_offset + 2, b"\x08\0")
    assert store.read([6], 3).labels.tolist() == [[6]]


def test_a_shard_cut_or_gone_after_opening_is_named(many_shards):
    store = FeatureStore(many_shards, loader=LoaderConfig(read_threads=1))
    store.read([0], 3)
    os.truncate(many_shards / "regions-00000.tar", 600)
    (many_shards / "regions-00001.tar").unlink()
    with pytest.raises(ShardError, match=r"regions-00000\.tar is cut; extract this shard again"):
        store.read([0], 3)
    with pytest.raises(ShardError, match=r"regions-00001\.tar is missing; extract this shard again"):
        store.read([2], 3)


def test_twice_the_same_key_is_refused(tmp_path):
    write_feature_set(tmp_path, [make_sample(key, [0], 16, 0) for key in ("a", "b", "a")], 2, 3, 16)
    with pytest.raises(ShardError, match=r"'a\.rgn' comes twice"):
        FeatureStore(tmp_path)


def damage(shard: Path, how: str) -> None:
    if how == "missing":
        shard.unlink()
    elif how == "truncated":
        os.truncate(shard, 700)
    else:
        shard.write_bytes(np.random.default_rng(0).bytes(shard.stat().st_size))


@pytest.fixture
def wide_world(make_world):
    """Forty images in ten shards, one caption each."""
    labels = [[number % 8, (number + 1) % 8] for number in range(40)]
    return make_world(labels, [(number, " ".join(WORDS[n] for n in row)) for number, row in enumerate(labels)], 4)


def open_batches(source, path, **loader):
    source = source.model_copy(update={"loader": LoaderConfig(**loader)})
    store, vocabulary = open_store(source), load_vocabulary(path)
    captions = load_captions(source, store)
    tokens = load_tokens(vocabulary, captions, 8)
    config = PretrainConfig(batch_size=8)
    return store, PretrainBatches(store, captions, tokens, vocabulary, 4, config)


@pytest.mark.parametrize("how", ["missing", "truncated", "scrambled"])
def test_training_stops_at_a_shard_that_went_bad(wide_world, how):
    source, path = wide_world
    _, batches = open_batches(source, path)
    damage(Path(source.features_path, "regions-00003.tar"), how)
    with pytest.raises(ShardError, match=r"regions-00003\.tar.*extract this shard again"):
        list(prefetch(batches, 0, 5))


@pytest.mark.parametrize("when", ["before", "during"])
@pytest.mark.parametrize("how", ["missing", "truncated", "scrambled"])
def test_training_goes_on_without_a_shard_that_went_bad(wide_world, tmp_path, caplog, how, when):
    source, path = wide_world
    source = source.model_copy(update={"cache_path": str(tmp_path / "cache")})
    FeatureStore(source.features_path, source.cache_path).close()
    bad = Path(source.features_path, "regions-00003.tar")
    with caplog.at_level(logging.WARNING):
        if when == "before":
            damage(bad, how)
        store, batches = open_batches(source, path, on_bad_shard="skip")
        made = []
        for step, batch in enumerate(prefetch(batches, 0, 10, ahead=0)):
            made.append(batch)
            if step == 5 and when == "during":
                store._shards.close()
                damage(bad, how)
    assert [len(batch.regions.mask) for batch in made] == [8] * 10
    # Four samples in each of two epochs; during: what was read before the damage is not counted.
    assert store.skipped_samples == 8 if when == "before" else 0 < store.skipped_samples <= 4
    assert store.lost == 1
    assert [record.message for record in caplog.records if "left out" in record.message] != []
    assert sum("regions-00003.tar" in record.message for record in caplog.records) == 1
    # What is left is the same wherever it is made: here from the middle, by a new process's eyes.
    _, again = open_batches(source, path, on_bad_shard="skip")
    assert torch.equal(next(iter(prefetch(again, 9, 10))).words.ids, made[9].words.ids)


def test_an_image_of_a_shard_that_was_left_out_cannot_be_read(many_shards):
    store = FeatureStore(many_shards, loader=SKIP)
    damage(many_shards / "regions-00003.tar", "scrambled")
    with pytest.raises(LostShardError, match=r"regions-00003"):
        store.read([6], 3)
    with pytest.raises(ShardError, match="it was left out, but an image of it is needed here"):
        store.read([6], 3)
    assert not store.sound(3)
    assert store.sound(2)


def test_many_threads_that_meet_one_bad_shard_lose_it_once(many_shards):
    store = FeatureStore(many_shards, loader=LoaderConfig(on_bad_shard="skip", read_threads=8))
    damage(many_shards / "regions-00003.tar", "truncated")
    with pytest.raises(LostShardError, match=r"regions-00003"):
        store.read([6, 7] * 8, 3)


def test_keys_of_a_bad_shard_are_not_kept(many_shards, tmp_path):
    shard = many_shards / "regions-00003.tar"
    content = shard.read_bytes()
    damage(shard, "scrambled")
    store = FeatureStore(many_shards, tmp_path / "cache", SKIP)
    assert store.keys[5:9] == ["000000005", "", "", "000000008"]
    assert store.index_folder is None
    assert list((tmp_path / "cache").glob("*.idx")) == []
    shard.write_bytes(content)
    mended = FeatureStore(many_shards, tmp_path / "cache", SKIP)
    assert mended.keys[5:9] == [f"{number:09d}" for number in range(5, 9)]
    assert mended.index_folder == tmp_path / "cache"
