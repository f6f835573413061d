"""What is left out of pairs that are too long for VL-BERT's joint length."""

import numpy as np
import pytest
import torch

from model.data.captions import load_captions
from model.data.order import WHOLE
from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary, tokenize
from model.objectives.batches import PretrainBatches
from model.objectives.config import PretrainConfig, RegionMasking
from model.objectives.masking import joint_lengths


def one_at_a_time(words, regions, limit):
    while words + regions > limit:
        if regions > words:
            regions -= 1
        else:
            words -= 1
    return words, regions


@pytest.mark.parametrize("limit", [7, 8, 24])
def test_lengths_are_those_of_leaving_out_one_at_a_time(limit):
    words, regions = (one.flatten() for one in np.meshgrid(np.arange(2, 40), np.arange(1, 40)))
    found = np.stack(joint_lengths(words, regions, limit), 1)
    expected = [one_at_a_time(int(w), int(r), limit) for w, r in zip(words, regions, strict=True)]
    assert found.tolist() == [list(pair) for pair in expected]


@pytest.fixture
def make_batches(eight_pairs, tiny):
    source, path = eight_pairs
    vocabulary, store = load_vocabulary(path), FeatureStore(source.features_path)
    captions = load_captions(source, store)
    tokens = tokenize(vocabulary, captions.texts, tiny.max_text_tokens)

    def make(**changes):
        config = PretrainConfig(
            steps=10,
            batch_size=8,
            objectives={"mlm": 1, "mvrc-hard": 1},
            matching="none",
            region_masking=RegionMasking(rate=0.9, zero_share=0.9),
            **changes,
        )
        return PretrainBatches(store, captions, tokens, vocabulary, tiny.max_regions, config, picture_regions=1)

    return make


def test_a_pair_loses_its_last_regions_and_words_but_keeps_its_sep_and_the_mean_of_all_regions(make_batches):
    """Five pieces and four regions, of which one is the whole picture: of 7, 3 pieces and 4 regions stay."""
    whole, short = make_batches()(0), make_batches(joint_length=7)(0)
    assert whole.words.mask.sum(1).tolist() == [5] * 8 and whole.regions.mask.sum(1).tolist() == [3] * 8
    assert short.words.mask.sum(1).tolist() == [3] * 8 and short.regions.mask.sum(1).tolist() == [3] * 8
    assert whole.regions.counted is None and torch.equal(short.regions.counted, whole.regions.mask)
    assert (short.words.ids[:, 2] == 3).all() and (short.words.ids[:, 0] == 2).all()

    shorter = make_batches(joint_length=5)(0)
    assert shorter.words.mask.sum(1).tolist() == [2] * 8 and shorter.regions.mask.sum(1).tolist() == [2] * 8
    # What is hidden of a picture does not depend on what is left out, but nothing left out is predicted.
    assert torch.equal(shorter.hidden.zeroed, whole.hidden.zeroed) and shorter.hidden.zeroed[:, 2].any()
    targets = shorter.targets["mvrc-hard"]
    assert len(targets) and int(targets.places.max()) == 1
    assert len(targets) < len(whole.targets["mvrc-hard"])


def test_without_a_joint_length_nothing_is_left_out_and_parts_are_as_before(make_batches):
    batch = make_batches().visit(3, WHOLE, make_batches().active(3))
    assert batch.regions.counted is None and batch.text is None
