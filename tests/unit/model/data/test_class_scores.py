"""Class scores as batches hold them: read where asked for, from whole distributions or from the best classes."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_extraction.samples.class_scores import spread_best_classes
from feature_extraction.samples.regions import RegionSample, read_region_shard
from feature_extraction.samples.tars import ShardError
from model.data.batch import join_rows
from model.data.store import FeatureStore
from model.errors import InputError
from tests.toy import WORDS, make_sample, with_class_scores, write_feature_set

LABELS = [[0, 1], [2], [], [3, 4, 5], [6], [7], [0], [1, 2]]
ROWS = [7, 0, 3, 3, 2]


def opened(folder: Path, kept: int | None = None, plain: bool = False) -> tuple[FeatureStore, list[RegionSample]]:
    """Eight images, and the samples that the slow reader finds in their shards."""
    samples = [make_sample(f"{number:09d}", row, 24, number) for number, row in enumerate(LABELS)]
    if not plain:
        samples = [with_class_scores(sample, number, kept) for number, sample in enumerate(samples)]
    write_feature_set(folder, samples, 3, 5, 24)
    store, slow = FeatureStore(folder), []
    for entry in store.manifest.shards:
        with Path(folder, entry.name).open("rb") as stream:
            slow += list(read_region_shard(stream, entry.name))
    return store, slow


def test_whole_distributions_are_those_of_the_slow_shard_reader(tmp_path):
    store, slow = opened(tmp_path)
    batch = store.read(ROWS, 5, class_scores=True)
    assert batch.class_scores.shape == (5, 3, 1 + len(WORDS))
    assert batch.class_scores.dtype == torch.float32
    for slot, row in enumerate(ROWS):
        count = len(slow[row].boxes)
        np.testing.assert_allclose(batch.class_scores[slot, :count].numpy(), slow[row].class_scores, rtol=1e-5)
    assert torch.equal(batch.class_scores[..., 0][batch.mask], batch.background[batch.mask])
    np.testing.assert_allclose(batch.class_scores.sum(-1), 1, atol=1e-6)
    assert (batch.class_scores[..., 1:].argmax(-1) == batch.labels)[batch.mask].all()
    assert store.manifest.class_scores_note is None


def test_fewer_regions_are_the_first_of_all(tmp_path):
    store, _ = opened(tmp_path)
    few, whole = store.read([3, 0], 2, class_scores=True), store.read([3, 0], 5, class_scores=True)
    assert torch.equal(few.class_scores, whole.class_scores[:, :2])
    assert torch.equal(few.features, whole.features[:, :2])


def test_best_classes_make_an_approximation_that_says_so(tmp_path, caplog):
    store, slow = opened(tmp_path, kept=2)
    with caplog.at_level(logging.WARNING):
        batch = store.read(ROWS, 5, class_scores=True)
        store.read(ROWS, 5, class_scores=True)
    assert caplog.text.count("class scores are an approximation: the best 2 of 8 classes") == 1
    for slot, row in enumerate(ROWS):
        one = slow[row]
        expected = np.empty((len(one.boxes), 1 + len(WORDS)), np.float32)
        spread_best_classes(one.top_labels, one.top_scores, one.background, expected)
        np.testing.assert_allclose(batch.class_scores[slot, : len(one.boxes)].numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(batch.class_scores.sum(-1), 1, atol=1e-6)
    assert (batch.class_scores[..., 0][~batch.mask] == 1).all()


@pytest.mark.parametrize("kept", [None, 2])
def test_nothing_of_them_is_there_unless_they_are_asked_for(tmp_path, kept, caplog):
    store, _ = opened(tmp_path, kept)
    batch = store.read(ROWS, 5)
    assert batch.class_scores is None
    assert not caplog.text
    asked = store.read(ROWS, 5, class_scores=True)
    for name, value in batch.given().items():
        assert torch.equal(value, getattr(asked, name)), name


def test_no_image_has_no_distribution_and_an_image_without_regions_one_place(tmp_path):
    store, _ = opened(tmp_path)
    assert store.read([], 5, class_scores=True).class_scores.shape == (0, 1, 9)
    assert store.read([2], 5, class_scores=True).class_scores.tolist() == [[[1.0] + [0.0] * 8]]


def test_shards_without_them_are_refused_with_the_way_out(tmp_path):
    store, _ = opened(tmp_path, plain=True)
    message = r"needs each region's class scores, but the features in .* hold none; extract them with .*'all'"
    with pytest.raises(InputError, match=message):
        store.read([0], 5, class_scores=True)
    with pytest.raises(InputError, match=message):
        store.check_class_scores()


def damage(folder: Path, offset: int, content: bytes) -> None:
    """Write over a place of the second record."""
    shard, layout = folder / "regions-00000.tar", FeatureStore(folder).layout
    with shard.open("r+b") as stream:
        stream.seek(layout.tar_bytes + 512 + offset)
        stream.write(content)


@pytest.mark.parametrize(("field", "value"), [("top_labels", "<i2"), ("top_scores", "<f2"), ("background", "<f2")])
def test_what_is_no_probability_of_a_known_class_is_named_where_it_is_asked_for(tmp_path, field, value):
    store, _ = opened(tmp_path, kept=2)
    damage(
        tmp_path, getattr(store.layout, f"{field}_offset"), np.array([8 if value == "<i2" else np.nan], value).tobytes()
    )
    store.read([0, 1], 5)
    with pytest.raises(ShardError, match=r"regions-00000.tar: 000000001 has class scores that are no probabilities"):
        store.read([0, 1], 5, class_scores=True)


def test_a_record_of_other_classes_than_the_manifest_is_named(tmp_path):
    store, _ = opened(tmp_path)
    damage(tmp_path, 28, np.array([7], "<u4").tobytes())
    with pytest.raises(ShardError, match=r"regions-00000\.tar: key 000000001: .*but the manifest says .*scores all"):
        store.read([0, 1], 5)


def test_they_move_with_the_other_regions(tmp_path):
    store, _ = opened(tmp_path)
    whole = store.read([0, 3], 5, class_scores=True)
    plain = replace(whole, class_scores=None)
    index = torch.tensor([1, 1, 0])
    assert torch.equal(whole.take(index).class_scores, whole.class_scores[index])
    assert plain.take(index).class_scores is None
    assert join_rows([whole, whole]).class_scores.shape == (4, 3, 9)
    assert join_rows([plain, plain]).class_scores is None
    for regions in (whole, plain):
        moved = regions.to(torch.device("cpu"))
        assert (moved.class_scores is None) == (regions.class_scores is None)


def test_a_batch_keeps_its_values_while_it_lives(tmp_path):
    store, _ = opened(tmp_path)
    kept = [store.read([row], 5, class_scores=True).class_scores for row in range(8)]
    again = [store.read([row], 5, class_scores=True).class_scores.clone() for row in range(8)]
    assert all(torch.equal(old, new) for old, new in zip(kept, again, strict=True))
