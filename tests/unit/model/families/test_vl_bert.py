"""VL-BERT's encoder against its formulas, written out again pair by pair; and what it shares with others."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from model.data.batch import Words, pad_words
from model.data.captions import load_captions
from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary, tokenize
from model.downstream.retrieval.blocks import score_split
from model.downstream.retrieval.config import ScoringConfig
from model.errors import InputError
from model.families.build import build_model
from model.families.configs import of_family
from model.families.embeddings import dequantise
from model.families.vl_bert import geometry
from model.families.vl_bert_config import VLBertConfig


@pytest.fixture
def world(make_world, tiny):
    """The last image has no region."""
    labels = [[0, 1], [2, 3, 4], [5], []]
    texts = ["red cat", "blue dog bird", "green", "red", "car tree red blue", "dog cat bird"]
    source, path = make_world(labels, [(number % 4, text) for number, text in enumerate(texts)])
    vocabulary, store = load_vocabulary(path), FeatureStore(source.features_path)
    captions = load_captions(source, store)
    encoder = of_family(tiny, "vl-bert")
    model = build_model(encoder, store, vocabulary, seed=2).eval()
    torch.manual_seed(3)
    for name, weight in model.named_parameters():
        if "norm" in name.lower() or "hidden_feature" in name:
            torch.nn.init.normal_(weight, 0.5, 0.2)
    return model, store, captions, tokenize(vocabulary, captions.texts, encoder.max_text_tokens), vocabulary


@pytest.fixture
def batch(world):
    model, store, _, tokens, _ = world
    return model, pad_words([tokens[number] for number in range(4)], 0), store.read([0, 1, 2, 3], 4)


def norm(x, layer):
    spread = (x - x.mean()).square().mean()
    return (x - x.mean()) / (spread + 1e-12).sqrt() * layer.weight + layer.bias


def box_waves(box, width, height):
    """The code of one box, number by number."""
    x0, y0, x1, y1 = box
    found = []
    for share in ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height):
        for wave in (math.sin, math.cos):
            found += [wave(100 * share / 1000 ** (k / 256)) for k in range(256)]
    return torch.tensor(found, dtype=torch.float32)


def pair_sequence(model, ids, boxes, features, size, hidden, tags=None):
    """What enters the layers for one pair without padding, element by element."""
    bert, visual = model.bert, model.bert.region_embeddings
    positions, segments = bert.embeddings.position_embeddings.weight, bert.embeddings.token_type_embeddings.weight
    width, height = size
    shown = [feature for feature, is_hidden in zip(features, hidden, strict=True) if not is_hidden]
    whole = sum(shown, torch.zeros(model.feature_dim)) / (len(shown) + 1e-5)
    rows = [((0, 0, width - 1, height - 1), whole, False), *zip(boxes, features, hidden, strict=True)]
    vectors, tokens = [], []
    for box, feature, is_hidden in rows:
        given = visual.hidden_feature[0] if is_hidden else feature
        vectors.append(visual.joint(torch.cat([box_waves(box, width, height), given])).relu())
        tokens.append((visual.hidden_token if is_hidden else visual.image_token).weight[0])
    found, count = [], len(ids)
    for place, piece in enumerate(ids):
        carried = norm(vectors[0 if tags is None else tags[place]], visual.text_norm)
        found.append(bert.word_table[piece] + carried + positions[place] + segments[0])
    for vector, token in zip(vectors, tokens, strict=True):
        found.append(token + norm(vector, visual.region_norm) + positions[count] + segments[2])
    found.append(bert.end_token.weight[0] + positions[count + 1] + segments[2])
    return torch.stack([norm(one, bert.embeddings.LayerNorm) for one in found])


def of_row(words, regions, row):
    tokens, boxes = int(words.mask[row].sum()), int(regions.mask[row].sum())
    size = regions.sizes[row].tolist()
    return words.ids[row, :tokens], regions.boxes[row, :boxes].tolist(), dequantise(regions)[row, :boxes], size


def test_the_box_code_by_hand():
    code = geometry(torch.tensor([[[10.0, 20, 40, 100]]]), torch.tensor([[200.0, 400]]))[0, 0]
    assert code.shape == (2048,)
    # cx/W = 0.125, cy/H = 0.15, w/W = 0.15, h/H = 0.2, each times 100; the first wave is the value itself.
    for place, value in enumerate((12.5, 15, 15, 20)):
        np.testing.assert_allclose(code[512 * place].item(), math.sin(value), atol=1e-6)
        np.testing.assert_allclose(code[512 * place + 256 + 128].item(), math.cos(value / 1000**0.5), atol=1e-6)
    torch.testing.assert_close(code, box_waves((10, 20, 40, 100), 200, 400), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("has_tags", [False, True])
def test_embeddings_are_the_programs(batch, hides, has_tags):
    model, words, regions = batch
    hidden = torch.zeros_like(regions.mask)
    if hides:
        hidden[0, 1] = hidden[1, 0] = hidden[2, 0] = True
    tags = torch.zeros_like(words.ids)
    if has_tags:
        tags[0, 1], tags[1, 2], tags[1, 3] = 2, 1, 3
        words = dataclasses.replace(words, tags=tags)
    features = dequantise(regions).masked_fill(hidden.unsqueeze(-1), 0)
    found = model.bert.join(
        model.bert.embed_words(words), model.bert.embed_regions(regions, features, hidden if hides else None)
    )
    mask = model.bert.join_masks(words.mask, regions.mask)
    for row in range(4):
        ids, boxes, own, size = of_row(words, regions, row)
        expected = pair_sequence(model, ids, boxes, own, size, hidden[row, : len(boxes)].tolist(), tags[row].tolist())
        torch.testing.assert_close(found[row][mask[row]], expected, atol=1e-4, rtol=1e-4)


def test_the_picture_is_the_mean_of_regions_that_the_sequence_has_no_room_for_too_or_what_the_detector_says(batch):
    model, _, regions = batch
    short = regions.mask.clone()
    short[1, 1:] = False
    trimmed = dataclasses.replace(regions, mask=short, counted=regions.mask)
    embed = model.bert.embed_regions
    found, whole = embed(trimmed, dequantise(regions)).states, embed(regions, dequantise(regions)).states
    torch.testing.assert_close(found[:, 0], whole[:, 0])
    alone = embed(dataclasses.replace(regions, mask=short), dequantise(regions)).states
    assert not torch.allclose(alone[1, 0], whole[1, 0])
    given = dataclasses.replace(regions, whole=dequantise(regions)[:, 0])
    box = torch.tensor([0, 0, *(regions.sizes[0] - 1).tolist()])
    lone = dataclasses.replace(regions, boxes=box.expand_as(regions.boxes))
    torch.testing.assert_close(
        embed(given, dequantise(regions)).states[0, 0], embed(lone, dequantise(regions)).states[0, 1]
    )


def test_a_new_model_reads_words_as_bert_does_and_regions_as_tokens_alone(world, batch):
    trained, words, regions = batch
    model = build_model(trained.config, world[1], world[4], seed=1).eval()
    states = model.bert.join(model.bert.embed_words(words), model.bert.embed_regions(regions, dequantise(regions)))
    positions = torch.arange(words.ids.shape[1]).expand_as(words.ids)
    torch.testing.assert_close(
        states[:, : words.ids.shape[1]], model.bert.embeddings(words.ids, positions, 0), atol=1e-6, rtol=1e-6
    )
    assert not model.bert.region_embeddings.hidden_feature.any()


@pytest.mark.parametrize("sequences", ["padded", "packed"])
def test_a_pair_alone_has_the_states_that_it_has_in_a_batch(batch, sequences):
    model, words, regions = batch
    model.bert.config = model.bert.config.model_copy(update={"sequences": sequences})
    encoded = model.bert(words, regions, dequantise(regions))
    for row in range(4):
        ids, boxes, own, size = of_row(words, regions, row)
        states = model.bert.run(pair_sequence(model, ids, boxes, own, size, [False] * len(boxes))[None], None)
        alone = model.bert.split(states, len(ids), len(boxes))
        for name in ("cls", "whole"):
            torch.testing.assert_close(getattr(encoded, name)[row], getattr(alone, name)[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(encoded.words[row, : len(ids)], alone.words[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(encoded.regions[row, : len(boxes)], alone.regions[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sequences", ["padded", "packed"])
def test_text_alone_carries_a_learned_vector_and_closes_as_a_pair(batch, sequences):
    model, words, _ = batch
    model.bert.config = model.bert.config.model_copy(update={"sequences": sequences})
    found = model.bert.encode_text(words)
    bert = model.bert
    positions, segments = bert.embeddings.position_embeddings.weight, bert.embeddings.token_type_embeddings.weight
    carried = norm(bert.region_embeddings.text_visual.weight[0], bert.region_embeddings.text_norm)
    for row in range(4):
        count = int(words.mask[row].sum())
        elements = [
            bert.word_table[words.ids[row, place]] + carried + positions[place] + segments[0] for place in range(count)
        ]
        elements.append(bert.end_token.weight[0] + positions[count + 1] + segments[2])
        states = torch.stack([norm(one, bert.embeddings.LayerNorm) for one in elements])
        expected = bert.run(states[None], None)[0, :-1]
        torch.testing.assert_close(found[row, :count], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_every_image_is_scored_with_every_caption_exactly(world, batch_size):
    model, store, captions, tokens, _ = world
    config = ScoringConfig(batch_size=batch_size, device="cpu")
    scores = score_split(model, store, captions, tokens, config, torch.device("cpu"))
    with torch.no_grad():
        for row, image in enumerate(captions.images.tolist()):
            for column in range(len(tokens)):
                words, regions = pad_words([tokens[column]], 0), store.read([image], 4)
                ids, boxes, own, size = of_row(words, regions, 0)
                states = pair_sequence(model, ids, boxes, own, size, [False] * len(boxes))[None]
                alone = model.match(model.bert.run(states, None)[:, 0])
                np.testing.assert_allclose(scores[row, column], alone.item(), atol=1e-5)
    assert np.ptp(scores) > 1e-4


def test_training_reaches_every_weight_of_the_encoder_whatever_a_batch_holds(batch):
    model, words, regions = batch
    model.train()
    model.bert(words, regions, dequantise(regions)).cls.sum().backward()
    unreached = [name for name, weight in model.bert.named_parameters() if weight.grad is None]
    assert not unreached
    for name in ("hidden_feature", "hidden_token.weight", "text_visual.weight"):
        assert not model.bert.region_embeddings.get_parameter(name).grad.any()


def test_positions_of_regions_and_end_must_fit_and_other_families_read_no_text_alone(tiny):
    with pytest.raises(ValidationError, match="max_text_tokens=15 must be at most max_positions=16 less 2"):
        VLBertConfig(max_text_tokens=15, max_positions=16)
    VLBertConfig(max_text_tokens=14, max_positions=16)
    from model.families.unicoder_vl import UnicoderVLEncoder

    words = Words(torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(InputError, match="family unicoder-vl reads no text without a picture"):
        UnicoderVLEncoder(20, 8, 3, tiny).encode_text(words)
