import math

import numpy as np
import pytest
import torch

from model.config import PretrainConfig
from model.data import FeatureStore, load_captions
from model.encoder import dequantise
from model.masking import IGNORE, SWAPPED, ZEROED
from model.objectives import PretrainBatches, hide_regions, pretraining_losses
from model.pretrain import build_model
from model.tokenizer import load_vocabulary, tokenize


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

    return batches, build_model(tiny, store, vocabulary, seed=0), store, captions, vocabulary


def test_a_mismatched_pair_never_holds_the_captions_own_image(parts):
    batches, _, store, captions, _ = parts
    make = batches(matching="replace", batch_size=4)
    matched = 0
    for step in range(100):
        batch = make(step)
        for slot, (_, sample) in enumerate(make._order.step(step)):
            own = store.read([captions.image_rows[sample]], 4)
            same = torch.equal(own.boxes[0, 0], batch.regions.boxes[slot, 0])
            assert same == bool(batch.matched[slot])
            matched += same
    assert abs(matched - 200) <= 5 * math.sqrt(400 * 0.25)


def test_paired_matching_feeds_every_caption_with_both_images(parts):
    batches, *_ = parts
    batch = batches(matching="paired", batch_size=4)(0)
    assert batch.matched.tolist() == [True, False] * 4
    assert torch.equal(batch.words.ids[0::2], batch.words.ids[1::2])


def test_mismatched_pairs_have_no_word_or_label_targets_unless_asked(parts):
    batches, *_ = parts
    batch = batches(matching="paired", region_mask_rate=0.9)(0)
    wrong = ~batch.matched
    assert (batch.word_targets[wrong] == IGNORE).all() and (batch.region_targets[wrong] == IGNORE).all()
    assert (batch.word_targets[batch.matched] != IGNORE).any(1).all()
    batch = batches(matching="paired", region_mask_rate=0.9, mismatched_losses=True)(0)
    assert (batch.word_targets[wrong] != IGNORE).any(1).all()


def test_unsure_and_background_regions_are_no_targets(parts):
    batches, *_ = parts
    batch = batches(region_mask_rate=0.99, min_label_score=0.7, mismatched_losses=True)(0)
    target = batch.region_targets != IGNORE
    assert target.any()
    assert (batch.regions.scores[target] >= 0.7).all()
    assert (batch.region_targets[target] == batch.regions.labels[target]).all()
    low = batch.regions.mask & (batch.regions.scores < 0.7)
    assert low.any() and (batch.region_targets[low] == IGNORE).all()


def test_the_same_step_is_the_same_batch_and_the_next_epoch_is_not(parts):
    batches, *_ = parts
    first, again, later = batches()(0), batches()(0), batches()(1)
    assert torch.equal(first.words.ids, again.words.ids)
    assert torch.equal(first.region_fate, again.region_fate)
    assert not torch.equal(first.word_targets, later.word_targets) or not torch.equal(first.matched, later.matched)


def test_a_samples_masks_do_not_depend_on_the_batch_size(parts):
    batches, *_ = parts
    whole = batches(batch_size=8)(0)
    halves = [batches(batch_size=4)(step) for step in range(2)]
    for step, half in enumerate(halves):
        for slot in range(4):
            width = half.words.ids.shape[1]
            there = whole.words.ids[4 * step + slot]
            assert there[:width].tolist() == half.words.ids[slot].tolist()
            assert whole.region_fate[4 * step + slot].tolist() == half.region_fate[slot].tolist()


def test_losses_by_hand_when_every_logit_is_zero(parts):
    batches, model, *_ = parts
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    losses = pretraining_losses(model, batches(matching="paired")(0))
    assert losses.mlm.item() == pytest.approx(math.log(13))
    assert losses.vlm.item() == pytest.approx(math.log(2))
    losses = pretraining_losses(model, batches(matching="paired", region_mask_rate=0.9)(0))
    assert losses.moc.item() == pytest.approx(math.log(8))
    assert losses.total.item() == pytest.approx(math.log(13) + math.log(2) + math.log(8))


def test_an_all_mismatched_batch_gives_the_word_and_label_heads_no_gradient(parts):
    batches, model, *_ = parts
    batch = batches(matching="paired")(0)
    wrong = torch.nonzero(~batch.matched).flatten()
    only_wrong = type(batch)(
        batch.words.take(wrong),
        batch.regions.take(wrong),
        batch.word_targets[wrong],
        batch.region_targets[wrong],
        batch.region_fate[wrong],
        batch.matched[wrong],
    )
    losses = pretraining_losses(model, only_wrong)
    losses.total.backward()
    head = model.cls["predictions"]
    assert losses.mlm.item() == 0 and losses.moc.item() == 0
    for parameter in (head.bias, head.transform["dense"].weight, model.region_labels.weight):
        assert parameter.grad is None or not parameter.grad.any()
    assert model.matching.weight.grad.any()


def test_hidden_regions_are_zeroed_or_come_from_the_batch(parts):
    batches, *_ = parts
    batch = batches()(0)
    features = dequantise(batch.regions)
    fate = torch.zeros_like(batch.region_fate)
    fate[0, 0], fate[0, 1] = ZEROED, SWAPPED
    hidden = hide_regions(features, batch.regions.mask, fate)
    assert not hidden[0, 0].any()
    present = features[batch.regions.mask]
    assert any(torch.equal(hidden[0, 1], row) for row in present)
    assert torch.equal(hidden[1:], features[1:])


def test_one_image_alone_cannot_be_matched_wrongly(make_world, tiny):
    source, path = make_world([[0, 1]], [(0, "red blue")])
    vocabulary, store = load_vocabulary(path), FeatureStore(source.features_path)
    captions = load_captions(source, store)
    tokens = tokenize(vocabulary, captions.texts, 8)
    with pytest.raises(ValueError, match="at least two images"):
        PretrainBatches(store, captions, tokens, vocabulary, 4, PretrainConfig(steps=1, batch_size=1))


def test_the_silent_five_word_tokenizer_would_be_noticed(eight_pairs):
    vocabulary = load_vocabulary(eight_pairs[1])
    table = tokenize(vocabulary, ["red cat", "purple dog"], 8)
    assert vocabulary.size == 13
    assert table[0].tolist() == [2, 5, 8, 3]
    assert table[1].tolist() == [2, 1, 9, 3]
    assert table.ids.dtype == np.int32


def test_a_long_caption_keeps_its_closing_mark(eight_pairs):
    vocabulary = load_vocabulary(eight_pairs[1])
    assert tokenize(vocabulary, ["red " * 50], 6)[0].tolist() == [2, 5, 5, 5, 5, 3]


@pytest.mark.parametrize(
    ("content", "message"), [("[PAD]\n[UNK]\ncat\n", r"lacks \[CLS\], \[SEP\], \[MASK\]"), (None, "is not a file")]
)
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_vocabulary(path)
