import math

import numpy as np
import pytest
import torch

from model.data.captions import load_captions
from model.data.order import Part
from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary, tokenize
from model.errors import InputError
from model.families.build import build_model
from model.objectives.batches import PretrainBatches
from model.objectives.config import PretrainConfig, RegionMasking, WordMasking
from model.objectives.hiding import seeded_normal
from model.objectives.pairing import Pair
from model.objectives.sum import pretraining_losses
from model.objectives.targets import Targets, states_at


@pytest.fixture
def parts(eight_pairs, tiny):
    source, path = eight_pairs
    vocabulary = load_vocabulary(path)
    store = FeatureStore(source.features_path)
    captions = load_captions(source, store)
    tokens = tokenize(vocabulary, captions.texts, tiny.max_text_tokens)

    def batches(**changes):
        config = PretrainConfig(**{"steps": 10, "batch_size": 8, "region_masking": RegionMasking(rate=0.5), **changes})
        return PretrainBatches(store, captions, tokens, vocabulary, tiny.max_regions, config), config

    return batches, build_model(tiny, store, vocabulary, seed=0)


def gradients(model, batches, config, slices):
    """The gradient of what the loop minimises, from the parts of step 0 one after the other."""
    model.zero_grad()
    made = [batches(0, part) for part in slices]
    counts = sum(batch.counts for batch in made).clamp(min=1)
    for batch in made:
        (pretraining_losses(model, batch, config).sums / counts).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_losses_by_hand_when_every_logit_is_zero(parts):
    batches, model = parts
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    make, config = batches(matching="paired", word_weight=2.0)
    batch = make(0)
    losses = pretraining_losses(model, batch, config)
    assert losses.names == ("mlm", "moc", "vlm")
    expected = batch.counts * torch.tensor([2 * math.log(13), math.log(8), math.log(2)])
    torch.testing.assert_close(losses.sums, expected)
    # A logit of zero says no: right for the wrong half of the pairs. Of equal logits, the first is the largest.
    assert losses.correct[2] == 8
    assert losses.correct[1] == (batch.targets["moc"].values == 0).sum()


def test_losses_by_hand_when_only_biases_speak(parts):
    batches, model = parts
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.cls["predictions"].bias[5] = 2.0
        model.region_labels.bias[3] = 1.0
        model.matching.bias.fill_(0.5)
    make, config = batches(matching="paired")
    batch = make(0)
    words, labels = batch.targets["mlm"].values, batch.targets["moc"].values
    losses = pretraining_losses(model, batch, config)
    of_word = sum(math.log(12 + math.e**2) - 2.0 * (word == 5) for word in words.tolist())
    of_label = sum(math.log(7 + math.e) - 1.0 * (label == 3) for label in labels.tolist())
    of_match = 8 * math.log(1 + math.exp(-0.5)) + 8 * math.log(1 + math.exp(0.5))
    torch.testing.assert_close(losses.sums, torch.tensor([of_word, of_label, of_match]))
    assert losses.correct.tolist() == [(words == 5).sum(), (labels == 3).sum(), 8]


def test_each_head_reads_its_own_targets_states(parts):
    """A slow twin: one position at a time."""
    batches, model = parts
    make, config = batches(word_masking=WordMasking(rate=0.5))
    batch = make(0)
    from model.objectives.hiding import hide_regions

    model.eval()
    encoded = model.bert(batch.words, batch.regions, hide_regions(batch.regions, batch.hidden))
    table, total = model.bert.embeddings.word_embeddings.weight, torch.zeros(3)
    for number, (states, targets) in enumerate(
        [
            (encoded.words, batch.targets["mlm"]),
            (encoded.regions, batch.targets["moc"]),
            (encoded.words, batch.targets["vlm"]),
        ]
    ):
        for pair, place, label in zip(targets.pairs, targets.places, targets.values, strict=True):
            state = states[pair, place].unsqueeze(0)
            if number == 0:
                loss = -model.cls["predictions"](state, table).log_softmax(-1)[0, label]
            elif number == 1:
                loss = -model.region_labels(state).log_softmax(-1)[0, label]
            else:
                loss = -torch.log(torch.sigmoid(model.match(state)[0] * (1 if label else -1)))
            total[number] += loss.detach()
    torch.testing.assert_close(pretraining_losses(model, batch, config).sums.detach(), total, rtol=1e-4, atol=1e-4)


def test_states_are_gathered_by_pair_and_place():
    states = torch.arange(24.0).view(2, 3, 4)
    assert states_at(states, Targets.labels([1, 0, 1], [2, 1, 0], [0, 0, 0])).tolist() == [
        states[1, 2].tolist(),
        states[0, 1].tolist(),
        states[1, 0].tolist(),
    ]


@pytest.mark.parametrize("splits", [2, 4, 8])
def test_parts_add_up_to_the_gradient_of_the_whole_batch(parts, splits):
    batches, model = parts
    make, config = batches()
    whole = gradients(model, make, config, [Part()])
    split = gradients(model, make, config, [Part(index, splits) for index in range(splits)])
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_an_all_mismatched_batch_gives_the_word_and_label_heads_no_gradient(parts):
    batches, model = parts
    wrong = [Pair(0, sample, (sample + 1) % 8, sample, False) for sample in range(8)]
    heads = [*model.cls.parameters(), *model.region_labels.parameters()]
    make, config = batches()
    batch = make.collate(wrong)
    losses = pretraining_losses(model, batch, config)
    losses.sums.sum().backward()
    assert batch.counts.tolist() == [0, 0, 8]
    assert losses.sums[:2].tolist() == [0, 0] and losses.correct[:2].tolist() == [0, 0]
    for parameter in heads:
        # Zero and not absent: every process of a run must have a gradient for every parameter.
        assert parameter.grad is not None and not parameter.grad.any()
    assert model.matching.weight.grad.any()
    make, config = batches(mismatched_losses=True)
    pretraining_losses(model, make.collate(wrong), config).sums.sum().backward()
    assert all(parameter.grad.any() for parameter in heads)


def test_every_parameter_has_a_gradient_from_every_batch(parts):
    batches, model = parts
    make, config = batches(matching="none")
    pretraining_losses(model, make(0), config).sums.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not model.matching.weight.grad.any()


def test_a_weight_of_zero_silences_a_loss(parts):
    batches, model = parts
    make, config = batches(label_weight=0.0)
    losses = pretraining_losses(model, make(0), config)
    losses.sums.sum().backward()
    assert losses.sums[1] == 0 and not model.region_labels.weight.grad.any()


def test_the_order_of_pairs_changes_no_loss(parts):
    batches, model = parts
    make, config = batches()
    pairs = [Pair(0, sample, sample, sample, True) for sample in range(8)]
    one = pretraining_losses(model, make.collate(pairs), config)
    other = pretraining_losses(model, make.collate(pairs[::-1]), config)
    torch.testing.assert_close(one.sums, other.sums, rtol=1e-5, atol=1e-5)
    assert torch.equal(one.correct, other.correct)


def test_seeded_normal_is_standard_normal_and_a_function_of_each_seed_alone():
    seeds = torch.from_numpy(np.random.default_rng(0).integers(2**63, size=100))
    values = seeded_normal(seeds, 2048)
    count = values.numel()
    assert values.isfinite().all()
    assert abs(values.mean()) <= 5 / count**0.5
    assert abs(values.var() - 1) <= 5 * (2 / count) ** 0.5
    assert abs((values**4).mean() - 3) <= 5 * (96 / count) ** 0.5
    # Neighbours are independent, along a vector and across nearby seeds.
    near = seeded_normal(torch.arange(100), 2048)
    for pairs in (values[:, 1:] * values[:, :-1], near[1:] * near[:-1]):
        assert abs(pairs.mean()) <= 5 / pairs.numel() ** 0.5
    torch.testing.assert_close(seeded_normal(seeds[[7, 3]], 64), values[[7, 3], :64])


def test_seeded_normal_equals_a_slow_twin():
    def split_mix(state):
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        return state ^ state >> 31

    seed = 2**63 - 12345
    expected = []
    for place in range(1, 9):
        mixed = split_mix((seed + place * 0x9E3779B97F4A7C15) % 2**64)
        radius, angle = ((mixed % 2**24) + 0.5) / 2**24, ((mixed >> 32) % 2**24 + 0.5) / 2**24
        expected.append(math.sqrt(-2 * math.log(radius)) * math.cos(2 * math.pi * angle))
    torch.testing.assert_close(seeded_normal(torch.tensor([seed]), 8)[0], torch.tensor(expected), rtol=1e-4, atol=1e-5)


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
    ("content", "message"),
    [
        (b"[PAD]\n[UNK]\ncat\n", r"lacks \[CLS\], \[SEP\], \[MASK\]"),
        (b"[PAD]\n\x8c\xff\n", "is not text in UTF-8"),
        (None, "is not a file"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_vocabulary(path)
