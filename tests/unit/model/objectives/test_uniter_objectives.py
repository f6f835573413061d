"""UNITER's objectives in pretraining: what each step hides and shows, and what is predicted of it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from model.data.captions import load_captions
from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary, tokenize
from model.errors import InputError
from model.families.build import build_model, data_sizes
from model.families.configs import of_family
from model.objectives.alignment import transport_distances
from model.objectives.batches import PretrainBatches
from model.objectives.config import PretrainConfig, RegionMasking, WordMasking
from model.objectives.masking import ZEROED
from model.objectives.objective import Draft, load_objective, objective_heads
from model.objectives.sum import pretraining_losses
from tests.toy import make_sample, with_class_scores, write_feature_set

UNITER = {
    "combine": "draw",
    "objectives": {"itm": 2, "mlm": 2, "mrfr": 1, "mrc": 1},
    "negative": "image",
    "word_masking": WordMasking(mask_share=0.8, random_share=0.1, forced="first"),
    "region_masking": RegionMasking(zero_share=1, at_least_one=True),
}


@pytest.fixture
def world(eight_pairs, tiny):
    source, path = eight_pairs
    vocabulary, store = load_vocabulary(path), FeatureStore(source.features_path)
    captions = load_captions(source, store)
    tokens = tokenize(vocabulary, captions.texts, tiny.max_text_tokens)

    def make(**changes):
        config = PretrainConfig(**{"steps": 10, "batch_size": 8, **UNITER, **changes})
        heads = objective_heads(config, data_sizes(store, vocabulary))
        model = build_model(of_family(tiny, "uniter"), store, vocabulary, seed=3, heads=heads).eval()
        return PretrainBatches(store, captions, tokens, vocabulary, tiny.max_regions, config), config, model

    return make


def step_of(batches: PretrainBatches, name: str) -> int:
    return next(step for step in range(100) if batches.active(step)[0].name == name)


def test_a_step_hides_only_what_it_predicts_and_shows_wrong_images_only_to_match(world):
    batches, config, model = world()
    mask_id = load_mask_id(batches)
    for name in ("mlm", "mrfr", "mrc", "itm"):
        batch = batches(step_of(batches, name))
        assert [one for one, targets in batch.targets.items() if len(targets)] == [name]
        assert bool((batch.words.ids == mask_id).any()) == (name == "mlm")
        # A region of every image is hidden, be it that chance picked none.
        assert batch.hidden.zeroed.any(1).tolist() == [name in ("mrfr", "mrc")] * 8
        losses = pretraining_losses(model, batch, config)
        place = losses.names.index(name)
        assert losses.sums[place] > 0 and not losses.sums[torch.arange(4) != place].any()
        losses.sums.sum().backward()
        assert all(weight.grad is not None for weight in model.parameters())
        model.zero_grad()


def load_mask_id(batches: PretrainBatches) -> int:
    return batches._vocabulary.mask_id


def test_only_the_image_of_a_wrong_pair_is_another(world):
    batches, _, _ = world()
    shown, labels = [], []
    for step in range(60):
        if batches.active(step)[0].name == "itm":
            pairs = batches._pairing.pairs(batches._order.step(step))
            shown += [(pair.caption == pair.sample, pair.image == pair.sample) for pair in pairs]
            labels += batches(step).targets["itm"].values.tolist()
    assert shown == [(True, label == 1) for label in labels] and 0.3 < np.mean(labels) < 0.7


def test_alignment_is_weighed_and_pushes_wrong_pairs_apart(world):
    batches, config, model = world()
    batch = batches(step_of(batches, "itm"))
    with torch.no_grad():
        without, with_it, more = (
            pretraining_losses(model, batch, config.model_copy(update={"alignment_weight": weight})).sums[1]
            for weight in (0.0, 0.1, 1.0)
        )
        encoded = model.bert(batch.words, batch.regions, batch.regions.features.float() * 0, batch.hidden.zeroed)
        assert model.match(encoded.cls).shape == (8,)
        features = batch.regions.features.float() ** 2 * batch.regions.scales.unsqueeze(-1) / 255**2
        encoded = model.bert(batch.words, batch.regions, features, batch.hidden.zeroed)
        distances = transport_distances(encoded.words, encoded.regions, batch.words.mask, batch.regions.mask)
    signs = 2 * batch.targets["itm"].values - 1
    torch.testing.assert_close(more - without, (signs * distances).sum(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(with_it - without, 0.1 * (more - without), atol=1e-4, rtol=1e-3)
    scores = model.head("itm")(model.pooler(encoded.cls))
    by_hand = sum(-scores.log_softmax(-1)[row, label] for row, label in enumerate(batch.targets["itm"].values))
    torch.testing.assert_close(without, by_hand, atol=1e-4, rtol=1e-4)


def test_features_are_regressed_by_the_transposed_projection(world):
    batches, config, model = world()
    batch = batches(step_of(batches, "mrfr"))
    assert config.vector_losses == "mean"
    mean, total = (
        pretraining_losses(model, batch, config.model_copy(update={"vector_losses": how})).sums[2]
        for how in ("mean", "sum")
    )
    features = batch.regions.features.float() ** 2 * batch.regions.scales.unsqueeze(-1) / 255**2
    shown = features.masked_fill(batch.hidden.zeroed.unsqueeze(-1), 0)
    encoded, head = model.bert(batch.words, batch.regions, shown, batch.hidden.zeroed), model.region_features
    by_hand = 0
    for pair, place in batch.hidden.zeroed.nonzero():
        state = head.LayerNorm(torch.nn.functional.gelu(head.dense(encoded.regions[pair, place])))
        found = state @ model.bert.region_embeddings.feature.weight + head.bias
        by_hand += (found - features[pair, place]).square().mean()
    torch.testing.assert_close(mean, by_hand)
    torch.testing.assert_close(total, 24 * mean)


def draft(regions, hidden) -> Draft:
    nothing = np.ones((len(hidden), 1), np.bool_)
    return Draft(
        PretrainConfig(), (), np.zeros((len(hidden), 1), np.int64), nothing, regions, hidden, nothing, nothing, nothing
    )


def test_classes_are_the_likeliest_object_even_of_background_and_distributions_are_whole(world):
    with pytest.raises(InputError, match=r"needs each region's class scores, but .* extractor.class_scores='all'"):
        world(objectives={"mrc": 1, "mrc-kl": 1})
    batches, _, model = world(objectives={"mrc": 1})
    regions = batches._store.read([0, 1], 4)
    hidden = np.zeros(regions.mask.shape, np.int8)
    hidden[0, 1] = hidden[1, 0] = ZEROED
    labels = load_objective("mrc").targets(draft(regions, hidden))
    assert labels.values.tolist() == [1 + regions.labels[0, 1], 1 + regions.labels[1, 0]]
    scores = torch.zeros(*regions.mask.shape, 9)
    scores[0, 1, 0], scores[0, 1, 4], scores[0, 1, 2] = 0.7, 0.2, 0.1
    scores[1, 0, 8] = 1.0
    regions = dataclasses.replace(regions, class_scores=scores)
    assert load_objective("mrc").targets(draft(regions, hidden)).values.tolist() == [4, 8]
    soft = load_objective("mrc-kl").targets(draft(regions, hidden))
    assert torch.equal(soft.values, scores[[0, 1], [1, 0]])

    states = torch.randn(2, 4, 32)
    encoded = dataclasses.make_dataclass("States", ["regions"])(states)
    logs = [model.region_classes(states[at]).log_softmax(-1) for at in ((0, 1), (1, 0))]
    by_hand = sum(
        p * (np.log(p) - logs[row][kind].item())
        for row, kind, p in ((0, 0, 0.7), (0, 4, 0.2), (0, 2, 0.1), (1, 8, 1.0))
    )
    for how, share in (("mean", 9), ("sum", 1)):
        loss, right = load_objective("mrc-kl").loss(model, encoded, None, soft, PretrainConfig(vector_losses=how))
        assert loss.item() == pytest.approx(by_hand / share, rel=1e-5)
        assert right == sum(int(log.argmax() == kind) for log, kind in zip(logs, (0, 8), strict=True))


def test_random_pieces_come_from_a_piece_on_and_one_that_is_not_there_is_named(world):
    batches, _, _ = world(word_masking=WordMasking(random_from="bird"))
    vocabulary = batches._vocabulary
    assert batches._pieces.ordinary.tolist() == [
        vocabulary.words.pieces.index(word) for word in ("bird", "tree", "car")
    ]
    with pytest.raises(InputError, match=r"random_from is '!', but .*vocab.txt has no such piece"):
        world(word_masking=WordMasking(random_from="!"))


def test_distributions_are_read_with_the_regions_only_by_steps_that_predict_them(eight_pairs, request):
    folder = Path(eight_pairs[0].features_path)
    samples = [make_sample(f"{n:09d}", [n, (n + 1) % 8, (n + 3) % 8], 24, n) for n in range(8)]
    write_feature_set(folder, [with_class_scores(one, n) for n, one in enumerate(samples)], 3, 5, 24)
    world = request.getfixturevalue("world")
    batches, config, model = world(objectives={"mlm": 1, "mrc-kl": 1}, precision="fp32")
    assert batches(step_of(batches, "mlm")).regions.class_scores is None
    batch = batches(step_of(batches, "mrc-kl"))
    targets = batch.targets["mrc-kl"]
    assert torch.equal(targets.values, batch.regions.class_scores[targets.pairs, targets.places]) and len(targets) > 7
    sums = pretraining_losses(model, batch, config)
    features = batch.regions.features.float() ** 2 * batch.regions.scales.unsqueeze(-1) / 255**2
    shown = features.masked_fill(batch.hidden.zeroed.unsqueeze(-1), 0)
    encoded = model.bert(batch.words, batch.regions, shown, batch.hidden.zeroed)
    logs = model.region_classes(encoded.regions[targets.pairs, targets.places]).log_softmax(-1)
    each = targets.values * (targets.values.clamp(min=1e-12).log() - logs)
    torch.testing.assert_close(sums.sums[1], each.sum() / 9, atol=1e-4, rtol=1e-4)
