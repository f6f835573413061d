from itertools import chain

import numpy as np
import pytest
import torch

from feature_extraction.samples.regions import RegionSample
from model.data.captions import load_captions
from model.data.order import Part
from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary, tokenize
from model.families.embeddings import dequantise
from model.objectives.batches import PretrainBatches
from model.objectives.config import PretrainConfig, RegionMasking, WordMasking
from model.objectives.hiding import hide_regions
from model.objectives.pairing import Pair

V1_REGIONS = RegionMasking(rate=0.5, zero_share=0.2, noise_share=0.4, swap_share=0.3)


@pytest.fixture
def parts(eight_pairs, tiny):
    source, path = eight_pairs
    vocabulary = load_vocabulary(path)
    store = FeatureStore(source.features_path)
    captions = load_captions(source, store)
    tokens = tokenize(vocabulary, captions.texts, tiny.max_text_tokens)

    def batches(**changes):
        config = PretrainConfig(**{"steps": 10, "batch_size": 8, **changes})
        return PretrainBatches(store, captions, tokens, vocabulary, tiny.max_regions, config)

    return batches, store, tokens


def flat(batch):
    """Everything in a batch, pair by pair: words, targets and features after hiding, cut to what is real."""
    features = hide_regions(batch.regions, batch.hidden)
    pairs = []
    for slot in range(len(batch.words.ids)):
        pairs.append(
            [
                batch.words.ids[slot][batch.words.mask[slot]].tolist(),
                features[slot][batch.regions.mask[slot]],
                *(
                    [
                        (int(place), int(label))
                        for pair, place, label in zip(t.pairs, t.places, t.values, strict=True)
                        if pair == slot
                    ]
                    for t in (batch.targets["mlm"], batch.targets["moc"], batch.targets["vlm"])
                ),
            ]
        )
    return pairs


def assert_same_pairs(ones, others):
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert one[0] == other[0] and one[2:] == other[2:]
        torch.testing.assert_close(one[1], other[1], rtol=1e-5, atol=1e-6)


def test_a_sample_is_the_same_at_any_batch_size_and_in_any_part(parts):
    batches, *_ = parts
    changes = {"region_masking": V1_REGIONS, "hide": "one"}
    whole = flat(batches(batch_size=8, **changes)(3))
    pieces = [flat(batches(batch_size=2, **changes)(step)) for step in range(12, 16)]
    assert_same_pairs(whole, list(chain(*pieces)))
    shares = [flat(batches(batch_size=8, **changes)(3, Part(index, 4))) for index in range(4)]
    assert_same_pairs(whole, list(chain(*shares)))


def test_steps_differ_and_repeat(parts):
    batches, *_ = parts
    first, again, later = (flat(batches()(step)) for step in (0, 0, 1))
    assert_same_pairs(first, again)
    assert [row[0] for row in first] != [row[0] for row in later]


def test_targets_are_what_was_hidden(parts):
    batches, store, tokens = parts
    make = batches(word_masking=WordMasking(rate=0.5), region_masking=RegionMasking(rate=0.5, zero_share=1))
    pairs = [Pair(epoch, sample, sample, sample, True) for epoch in range(5) for sample in range(8)]
    batch = make.collate(pairs)
    words = batch.targets["mlm"]
    assert len(words) > 20
    for pair, place, label in zip(words.pairs.tolist(), words.places.tolist(), words.values.tolist(), strict=True):
        assert label == tokens[pairs[pair].caption][place]
        assert batch.words.ids[pair, place] == 4
    regions = batch.targets["moc"]
    labels = store.read([pair.image for pair in pairs], 4).labels
    assert torch.equal(labels[regions.pairs, regions.places], regions.values)
    hidden = torch.zeros_like(batch.hidden.zeroed)
    hidden[regions.pairs, regions.places] = True
    assert torch.equal(hidden, batch.hidden.zeroed)
    assert batch.counts.tolist() == [len(words), len(regions), len(pairs)]


def test_wrong_pairs_have_no_word_or_label_targets_unless_asked(parts):
    batches, *_ = parts
    half = {"matching": "paired", "region_masking": RegionMasking(rate=0.9)}
    batch = batches(**half)(0)
    assert batch.targets["vlm"].values.tolist() == [1, 0] * 8
    assert set(batch.targets["mlm"].pairs.tolist()) == set(range(0, 16, 2))
    assert (batch.targets["moc"].pairs % 2 == 0).all() and len(batch.targets["moc"])
    batch = batches(**half, mismatched_losses=True)(0)
    assert set(batch.targets["mlm"].pairs.tolist()) == set(range(16))
    assert (batch.targets["moc"].pairs % 2 == 1).any()


def test_unsure_and_background_regions_are_hidden_but_no_targets(make_world, tiny, monkeypatch):
    real = RegionSample.__init__

    def with_background(self, **fields):
        # Every second region: more probably background than what its label says.
        fields["background"] = np.where(np.arange(len(fields["labels"])) % 2, 0.95, 0.01).astype(np.float32)
        real(self, **fields)

    monkeypatch.setattr(RegionSample, "__init__", with_background)
    source, path = make_world([[0, 1, 2, 3]] * 60, [(i, "red") for i in range(60)])
    vocabulary, store = load_vocabulary(path), FeatureStore(source.features_path)
    captions = load_captions(source, store)
    tokens = tokenize(vocabulary, captions.texts, 8)
    config = PretrainConfig(batch_size=60, region_masking=RegionMasking(rate=0.5, zero_share=1), matching="none")
    batch = PretrainBatches(store, captions, tokens, vocabulary, 4, config)(0)
    background = batch.regions.background > batch.regions.scores
    assert background[:, 1::2].all() and not background[:, ::2].any()
    hit = torch.zeros_like(background)
    hit[batch.targets["moc"].pairs, batch.targets["moc"].places] = True
    assert torch.equal(hit, batch.hidden.zeroed & ~background)
    assert (batch.hidden.zeroed & background).any()
    sure = PretrainBatches(store, captions, tokens, vocabulary, 4, config.model_copy(update={"min_label_score": 0.7}))(
        0
    ).targets["moc"]
    assert len(sure) and (batch.regions.scores[sure.pairs, sure.places] >= 0.7).all()


def test_no_matching_means_no_wrong_pair_and_no_matching_target(parts):
    batches, *_ = parts
    batch = batches(matching="none")(0)
    assert batch.counts[2] == 0 and len(set(batch.targets["mlm"].pairs.tolist())) == 8


def test_one_modality_at_a_time_hides_words_or_regions_never_both(parts):
    batches, *_ = parts
    make = batches(hide="one", matching="none", region_masking=RegionMasking(rate=0.9, zero_share=1))
    words = regions = 0
    for step in range(30):
        batch = make(step)
        worded = set(batch.targets["mlm"].pairs.tolist())
        covered = set(batch.hidden.zeroed.any(1).nonzero().flatten().tolist())
        assert not worded & covered
        words, regions = words + len(worded), regions + len(covered)
    assert words + regions >= 235 and abs(words - 120) <= 5 * np.sqrt(240 * 0.25)


def test_swapped_regions_hold_a_region_of_another_image_of_the_split(parts):
    batches, store, _ = parts
    make = batches(region_masking=RegionMasking(rate=0.9, zero_share=0, swap_share=1), matching="none", batch_size=8)
    every = store.read(np.arange(8), 4)
    known = dequantise(every)
    seen = 0
    for step in range(10):
        batch = make(step)
        features = hide_regions(batch.regions, batch.hidden)
        for pair, place in zip(batch.hidden.swap_pairs, batch.hidden.swap_places, strict=True):
            image, _ = np.nonzero((known == features[pair, place]).all(-1).numpy())
            assert len(image) == 1 and not torch.equal(every.boxes[image[0]], batch.regions.boxes[pair])
            seen += 1
    assert seen > 150


def test_noise_has_the_spread_of_the_images_features(parts):
    batches, *_ = parts
    make = batches(region_masking=RegionMasking(rate=0.9, zero_share=0, noise_share=1), matching="none")
    ratios = []
    for step in range(40):
        batch = make(step)
        before, after = dequantise(batch.regions), hide_regions(batch.regions, batch.hidden)
        for pair, place in zip(batch.hidden.noise_pairs, batch.hidden.noise_places, strict=True):
            ratios.append(after[pair, place] / before[pair][batch.regions.mask[pair]].std(correction=0))
    values = torch.cat(ratios)
    assert len(values) > 20_000
    assert abs(values.mean()) <= 5 / len(values) ** 0.5
    assert abs(values.square().mean() - 1) <= 5 * (2 / len(values)) ** 0.5


def test_what_is_not_hidden_stays(parts):
    batches, *_ = parts
    batch = batches(region_masking=V1_REGIONS)(0)
    hidden = batch.hidden.zeroed.clone()
    hidden[batch.hidden.noise_pairs, batch.hidden.noise_places] = True
    hidden[batch.hidden.swap_pairs, batch.hidden.swap_places] = True
    after, before = hide_regions(batch.regions, batch.hidden), dequantise(batch.regions)
    assert torch.equal(after[~hidden], before[~hidden])
    assert not after[batch.hidden.zeroed].any()
    assert hidden.any() and (~hidden).any()


def test_one_image_alone_cannot_be_matched_wrongly(make_world, tiny):
    source, path = make_world([[0, 1]], [(0, "red blue")])
    vocabulary, store = load_vocabulary(path), FeatureStore(source.features_path)
    captions = load_captions(source, store)
    tokens = tokenize(vocabulary, captions.texts, 8)
    with pytest.raises(ValueError, match="at least two images"):
        PretrainBatches(store, captions, tokens, vocabulary, 4, PretrainConfig(steps=1, batch_size=1))
