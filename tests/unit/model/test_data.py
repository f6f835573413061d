from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_extraction.samples import ShardError, read_region_shard
from model.config import FeatureSource
from model.data import BatchOrder, FeatureStore, epoch_order, load_captions, prefetch
from model.encoder import dequantise


def test_read_gives_what_the_slow_shard_reader_gives(make_world):
    source, _ = make_world([[0, 1], [2], [], [3, 4, 5], [6], [7], [0], [1, 2]], [(0, "red")])
    store = FeatureStore(source.features_path)
    slow = []
    for entry in store.manifest.shards:
        with (store.folder / entry.name).open("rb") as stream:
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


def test_captions_of_images_without_regions_are_left_out(make_world):
    source, _ = make_world([[0], [1]], [(0, "red"), (1, "blue"), (0, "cat")])
    import pyarrow.parquet as pq

    table = pq.read_table(source.captions_path).to_pylist()
    table[1]["image_key"] = "999999999"
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(table), source.captions_path)
    captions = load_captions(source, FeatureStore(source.features_path))
    assert captions.ids == ["c0", "c2"]
    assert captions.image_rows.tolist() == [0, 0]


def test_no_caption_with_an_image_is_an_error(make_world):
    source, _ = make_world([[0]], [(0, "red")])
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{**row, "image_key": "x"} for row in pq.read_table(source.captions_path).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows), source.captions_path)
    with pytest.raises(ValueError, match="toy/train: none of 1 captions"):
        load_captions(
            FeatureSource(features_path=source.features_path, captions_path=source.captions_path, name="toy/train"),
            FeatureStore(source.features_path),
        )


def test_epoch_order_is_a_permutation_that_changes_with_the_epoch_only():
    shards = np.repeat(np.arange(40), 25)
    first, again, later = epoch_order(3, 0, shards), epoch_order(3, 0, shards), epoch_order(3, 1, shards)
    assert sorted(first) == list(range(1000))
    assert first.tolist() == again.tolist()
    assert first.tolist() != later.tolist()


def test_epoch_order_mixes_the_shards_of_a_window_and_no_others():
    shards = np.repeat(np.arange(6), 10)
    windows = shards[epoch_order(0, 0, shards, window=2)].reshape(3, 20)
    assert all(len(set(window)) == 2 for window in windows.tolist())
    assert any(len(set(window[:10])) == 2 for window in windows.tolist())


def test_every_sample_comes_once_an_epoch_even_when_batches_straddle_epochs():
    order = BatchOrder(seed=1, batch_size=4, shards=np.zeros(10, np.int64))
    seen = Counter(place for step in range(5) for place in order.step(step))
    assert seen == Counter((epoch, sample) for epoch in range(2) for sample in range(10))


def test_a_step_can_be_asked_for_without_its_predecessors():
    shards = np.repeat(np.arange(3), 7)
    walked = BatchOrder(5, 4, shards)
    steps = [walked.step(step) for step in range(20)]
    assert BatchOrder(5, 4, shards).step(17) == steps[17]


def test_prefetch_keeps_the_order_and_passes_errors_on():
    assert list(prefetch(lambda step: step * step, 2, 5)) == [4, 9, 16]

    def broken(step: int) -> int:
        if step == 3:
            raise ShardError("shard 3 is damaged")
        return step

    seen = []
    with pytest.raises(ShardError, match="shard 3"):
        seen.extend(iter(prefetch(broken, 2, 5)))
