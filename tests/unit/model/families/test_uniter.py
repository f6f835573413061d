"""UNITER's encoder against its formulas, written out again; and what it shares with the other family."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.data.batch import Regions, Words, pad_words
from model.data.captions import load_captions
from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary, tokenize
from model.downstream.retrieval.blocks import score_split
from model.downstream.retrieval.config import ScoringConfig
from model.families.build import build_model
from model.families.configs import of_family
from model.families.embeddings import dequantise
from model.families.uniter import box_code


@pytest.fixture
def world(make_world, tiny):
    labels = [[0, 1], [2, 3, 4], [5], [6, 7, 0, 1]]
    texts = ["red cat", "blue dog bird", "green", "red", "car tree red blue", "dog cat bird"]
    source, path = make_world(labels, [(number % 4, text) for number, text in enumerate(texts)])
    vocabulary, store = load_vocabulary(path), FeatureStore(source.features_path)
    captions = load_captions(source, store)
    encoder = of_family(tiny, "uniter").model_copy(update={"max_text_tokens": 8, "max_positions": 16, "type_rows": 4})
    model = build_model(encoder, store, vocabulary, seed=2).eval()
    for norm in model.modules():
        if isinstance(norm, torch.nn.LayerNorm):
            norm.reset_parameters()
            torch.nn.init.normal_(norm.weight, 1, 0.1)
            torch.nn.init.normal_(norm.bias, 0, 0.1)
    return model, store, captions, tokenize(vocabulary, captions.texts, encoder.max_text_tokens)


@pytest.fixture
def batch(world):
    model, store, _, tokens = world
    return model, pad_words([tokens[number] for number in range(4)], 0), store.read([0, 1, 2, 3], 4)


def norm(x: torch.Tensor, layer: torch.nn.LayerNorm) -> torch.Tensor:
    spread = (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)
    return (x - x.mean(-1, keepdim=True)) / (spread + 1e-12).sqrt() * layer.weight + layer.bias


def test_the_box_code_by_hand():
    code = box_code(torch.tensor([[[10.0, 20, 40, 100]]]), torch.tensor([[200.0, 400]]))
    torch.testing.assert_close(code, torch.tensor([[[0.05, 0.05, 0.2, 0.25, 0.15, 0.2, 0.03]]]))


def test_embeddings_are_the_papers(batch):
    model, words, regions = batch
    types = torch.arange(words.ids.numel()).view_as(words.ids) % 4
    words = dataclasses.replace(words, types=types)
    table, embeddings = model.bert.embeddings.token_type_embeddings.weight, model.bert.embeddings
    positions = embeddings.position_embeddings.weight[: words.ids.shape[1]]
    expected = norm(embeddings.word_embeddings.weight[words.ids] + positions + table[types], embeddings.LayerNorm)
    torch.testing.assert_close(model.bert.embed_words(words).states, expected, atol=1e-5, rtol=1e-5)

    ours, features = model.bert.region_embeddings, dequantise(regions)
    masked = torch.zeros_like(regions.mask)
    masked[1, 0] = masked[3, 2] = True
    features = features.masked_fill(masked.unsqueeze(-1), 0)
    shown = features.clone()
    shown[1, 0] = shown[3, 2] = ours.mask_embedding.weight[1]
    branches = norm(ours.feature(shown), ours.feature_norm) + norm(
        ours.location(box_code(regions.boxes, regions.sizes)), ours.location_norm
    )
    found = model.bert.embed_regions(regions, features, masked).states
    torch.testing.assert_close(found, norm(branches + table[1], ours.LayerNorm), atol=1e-5, rtol=1e-5)
    second = dataclasses.replace(regions, types=torch.full_like(regions.labels, 2))
    found = model.bert.embed_regions(second, features, masked).states
    torch.testing.assert_close(found, norm(branches + table[2], ours.LayerNorm), atol=1e-5, rtol=1e-5)


def test_row_0_of_the_mask_table_is_zero_and_never_trained(batch):
    model, words, regions = batch
    table = model.bert.region_embeddings.mask_embedding.weight
    assert not table[0].any() and table[1].all()
    features = dequantise(regions)
    encoded = model.bert(words, regions, features, torch.ones_like(regions.mask))
    encoded.regions[regions.mask].square().sum().backward()
    assert not table.grad[0].any() and table.grad[1].any()
    # Where nothing is hidden, every process of a run must still reach it.
    table.grad = None
    model.train()
    model.bert(words, regions, features).cls.sum().backward()
    assert table.grad is not None and not table.grad.any()


@pytest.mark.parametrize("sequences", ["padded", "packed"])
def test_a_pair_alone_has_the_states_that_it_has_in_a_batch(batch, sequences):
    model, words, regions = batch
    model.bert.config = model.bert.config.model_copy(update={"sequences": sequences})
    encoded = model.bert(words, regions, dequantise(regions))
    for row in range(4):
        tokens, boxes = int(words.mask[row].sum()), int(regions.mask[row].sum())
        one = Words(words.ids[row : row + 1, :tokens], words.mask[row : row + 1, :tokens])
        shown = {n: x[row : row + 1] if n == "sizes" else x[row : row + 1, :boxes] for n, x in regions.given().items()}
        own = Regions(**shown)
        alone = model.bert(one, own, dequantise(own))
        torch.testing.assert_close(encoded.cls[row], alone.cls[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(encoded.words[row, :tokens], alone.words[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(encoded.regions[row, :boxes], alone.regions[0], atol=1e-5, rtol=1e-5)


def test_every_image_is_scored_with_every_caption_exactly(world):
    model, store, captions, tokens = world
    scores = score_split(model, store, captions, tokens, ScoringConfig(batch_size=5, device="cpu"), torch.device("cpu"))
    with torch.no_grad():
        for row, image in enumerate(captions.images.tolist()):
            for column in range(len(tokens)):
                alone = model.score(pad_words([tokens[column]], 0), store.read([image], 4))
                np.testing.assert_allclose(scores[row, column], alone.item(), atol=1e-5)
    assert np.ptp(scores) > 1e-4


def test_the_layers_are_berts_with_the_pooler_on_cls(batch):
    """The first layer's attention, written out: no mark stands after the regions and they have no position."""
    model, words, regions = batch
    side = model.bert.embed_regions(regions, dequantise(regions))
    states = torch.cat([model.bert.embed_words(words).states, side.states], 1)
    mask = torch.cat([words.mask, regions.mask], 1)
    for layer in model.bert.encoder["layer"]:
        attention, (batch_size, length, width) = layer.attention["self"], states.shape
        query, key, value = (
            part(states).view(batch_size, length, 4, width // 4).transpose(1, 2)
            for part in (attention.query, attention.key, attention.value)
        )
        logits = query @ key.transpose(2, 3) / (width // 4) ** 0.5 - 10000 * (~mask[:, None, None]).float()
        mixed = (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
        output = layer.attention["output"]
        states = norm(output.dense(mixed) + states, output.LayerNorm)
        inner = F.gelu(layer.intermediate["dense"](states))
        states = norm(layer.output.dense(inner) + states, layer.output.LayerNorm)
    pooled = torch.tanh(F.linear(states[:, 0], model.pooler[0].weight, model.pooler[0].bias))
    torch.testing.assert_close(model.score(words, regions), model.matching(pooled)[:, 0], atol=1e-5, rtol=1e-5)
