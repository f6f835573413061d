"""As many regions of an image as score well: in records, and in everything that reads them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from feature_extraction.samples.regions import RegionSample, encode_regions, read_region_shard
from model.config import AdaptiveRegions, FeatureSource, LoaderConfig
from model.data.store import FeatureStore
from model.downstream.retrieval.config import ScoringConfig
from model.downstream.retrieval.scores import Scores
from model.downstream.retrieval.search import record_regions
from model.families.unicoder_vl_config import UnicoderVLConfig
from model.jobs import ScoreJob
from model.pretrain import run_pretraining
from model.scoring import run_scoring
from model.training.checkpoint import load_model
from tests.toy import make_sample, write_feature_set

LABELS = [[0, 1, 2, 3, 4, 5], [1, 2], [], [3, 4, 5, 6, 7], [6], [7, 0, 1, 2]]
RULE = AdaptiveRegions(score=0.7, least=2)
MOST = 4


def slow_count(sample: RegionSample) -> int:
    """min(MOST, max(least, how many pass)) of the regions that there are, one by one."""
    passing = 0
    for score in sample.scores:
        if score > RULE.score:
            passing += 1
    return min(len(sample.scores), MOST, max(RULE.least, passing))


def cut(sample: RegionSample) -> RegionSample:
    count = slow_count(sample)
    parts = ("boxes", "labels", "scores", "background", "features")
    return replace(sample, **{name: getattr(sample, name)[:count] for name in parts})


@pytest.fixture
def full(make_world) -> tuple[FeatureSource, Path]:
    captions = [(number % len(LABELS), text) for number, text in enumerate(["red cat", "dog", "bird", "car tree"] * 2)]
    return make_world(LABELS, captions, regions=6, name="full/train")


@pytest.fixture
def samples(full):
    found = []
    for path in sorted(Path(full[0].features_path).glob("*.tar")):
        with path.open("rb") as stream:
            found += list(read_region_shard(stream, path.name))
    return found


def test_the_best_regions_are_read_as_far_as_they_score_well(full, samples):
    counts = [slow_count(sample) for sample in samples]
    assert len(set(counts)) > 3  # None, one, the least, more, the most: the rule is seen at work.
    store = FeatureStore(full[0].features_path, adaptive_regions=RULE)
    whole = FeatureStore(full[0].features_path)
    rows = [5, 0, 3, 2, 1, 4, 0]
    found, fixed = store.read(rows, MOST), whole.read(rows, MOST)
    assert found.mask.sum(1).tolist() == [counts[row] for row in rows]
    assert fixed.mask.sum(1).tolist() == [min(MOST, len(LABELS[row])) for row in rows]
    assert found.features.shape[1] == max(counts[row] for row in rows)
    for slot in range(len(rows)):
        count = int(found.mask[slot].sum())
        for name in ("features", "boxes", "labels", "scores"):
            assert torch.equal(getattr(found, name)[slot, :count], getattr(fixed, name)[slot, :count])
    layout = store.layout
    for row, sample in enumerate(samples):
        record = encode_regions(sample, layout)
        alone = record_regions(record, layout, len(store.manifest.labels), MOST, RULE)
        assert int(alone.mask.sum()) == counts[row]


def test_a_rule_that_all_pass_reads_what_no_rule_reads(full):
    rows = list(range(len(LABELS)))
    plain = FeatureStore(full[0].features_path).read(rows, MOST)
    for rule in (AdaptiveRegions(score=0, least=1), AdaptiveRegions(score=0.99, least=6)):
        found = FeatureStore(full[0].features_path, adaptive_regions=rule).read(rows, MOST)
        assert torch.equal(found.mask, plain.mask) and torch.equal(found.features, plain.features)


def test_a_region_with_exactly_the_score_is_not_read(tmp_path):
    sample = replace(make_sample("a", [0, 1, 2], 24, 0), scores=np.array([0.75, 0.5, 0.5], np.float32))
    write_feature_set(tmp_path, [sample], 1, 3, 24)
    rule = AdaptiveRegions(score=0.5, least=1)
    assert FeatureStore(tmp_path, adaptive_regions=rule).read([0], 3).mask.tolist() == [[True]]


def test_numbers_of_regions_are_counted_once_for_all_images(full, samples, tmp_path):
    folder, cache = full[0].features_path, tmp_path / "cache"
    whole = [len(labels) for labels in LABELS]
    adaptive = [
        min(count, max(2, int((sample.scores > 0.7).sum()))) for count, sample in zip(whole, samples, strict=True)
    ]
    for _ in range(2):
        assert FeatureStore(folder, cache).region_counts.tolist() == whole
        assert FeatureStore(folder, cache, adaptive_regions=RULE).region_counts.tolist() == adaptive
    assert len(list(cache.glob("regions-*.idx"))) == 2
    # Of a shard that cannot be read nothing is known.
    next(Path(folder).glob("regions-00001.tar")).unlink()
    lossy = FeatureStore(folder, loader=LoaderConfig(on_bad_shard="skip"))
    assert lossy.region_counts.tolist() == [*whole[:3], 6, 6, 6]


def test_training_and_scoring_read_full_shards_as_if_the_others_were_not_there(full, samples, job, tiny, tmp_path):
    source, _ = full
    write_feature_set(tmp_path / "fewer", [cut(sample) for sample in samples], 3, 6, 24)
    few = source.model_copy(update={"features_path": str(tmp_path / "fewer")})
    encoder = tiny.model_copy(update={"adaptive_regions": RULE, "max_regions": MOST})
    weights, scores = [], []
    for run, data, wiring in (("adaptive", source, encoder), ("cut", few, tiny)):
        this = job(run, steps=3).model_copy(update={"train": data, "encoder": wiring})
        assert run_pretraining(this) == 0
        checkpoint = tmp_path / run / "checkpoints" / "step-0000003"
        weights.append(load_file(checkpoint / "model.safetensors"))
        model, _ = load_model(checkpoint)
        assert model.config.adaptive_regions == wiring.adaptive_regions
        scoring = ScoringConfig(precision="fp32", num_threads=1)
        output = tmp_path / f"scores-{run}"
        paths = {"output_path": str(output), "checkpoint_path": str(checkpoint)}
        assert run_scoring(ScoreJob(**paths, data=data, scoring=scoring)) == 0
        scores.append(Scores(output).block(0))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    np.testing.assert_array_equal(scores[0], scores[1])


def test_the_rule_is_part_of_a_run_only_where_it_is_given():
    assert "adaptive_regions" not in UnicoderVLConfig().identity()
    identity = UnicoderVLConfig(adaptive_regions=AdaptiveRegions()).identity()
    assert identity["adaptive_regions"] == {"score": 0.2, "least": 10}
    with pytest.raises(ValidationError, match=r"adaptive_regions\.least=10 exceeds max_regions=8"):
        UnicoderVLConfig(adaptive_regions=AdaptiveRegions(), max_regions=8)
