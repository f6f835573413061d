import dataclasses

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from model.data.batch import Regions, Words, pad_words
from model.data.captions import load_captions
from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary, tokenize
from model.errors import InputError
from model.families.build import build_model
from model.families.embeddings import corners, corners_and_area, dequantise
from model.families.model import VisionLanguageModel

V1 = {
    "region_fusion": "concat",
    "box_code": "corners",
    "segments": "modality",
    "image_token": False,
}
"""What v1 wires otherwise than v3, the default."""


@pytest.fixture
def world(make_world, tiny):
    """Eight pairs, captions and region lists of unequal length."""
    labels = [[i, (i + 1) % 8, (i + 3) % 8][: 1 + i % 3] for i in range(8)]
    source, vocabulary_path = make_world(labels, [(i, "red cat " * (1 + i % 3) + "car") for i in range(8)])
    vocabulary = load_vocabulary(vocabulary_path)
    store = FeatureStore(source.features_path)
    captions = load_captions(source, store)
    tokens = tokenize(vocabulary, captions.texts, tiny.max_text_tokens)
    words = pad_words([tokens[i] for i in range(8)], vocabulary.pad_id)
    return store, vocabulary, words, store.read(captions.image_rows, 4)


@pytest.fixture(params=["v1", "v3"])
def batch(request, world, tiny):
    store, vocabulary, words, regions = world
    encoder = tiny.model_copy(update=V1 if request.param == "v1" else {})
    return build_model(encoder, store, vocabulary, seed=0).eval(), words, regions


def widen(words: Words, regions: Regions) -> tuple[Words, Regions]:
    """The same pairs with more padding, filled with rubbish."""

    def longer(x: torch.Tensor, fill: float) -> torch.Tensor:
        return torch.cat([x, torch.full_like(x[:, :2], fill)], 1)

    words = Words(longer(words.ids, 7), longer(words.mask, 0))
    fields = {n: x if n == "sizes" else longer(x, 0 if n == "mask" else 3) for n, x in regions.given().items()}
    return words, Regions(**fields)


def test_layers_equal_berts_given_the_same_embeddings_and_weights(batch, tiny):
    model, words, regions = batch
    reference = BertModel(
        BertConfig(
            vocab_size=13,
            hidden_size=tiny.hidden_size,
            num_hidden_layers=tiny.num_layers,
            num_attention_heads=tiny.num_heads,
            intermediate_size=tiny.intermediate_size,
            max_position_embeddings=tiny.max_positions,
            hidden_act="gelu",
        ),
        add_pooling_layer=False,
    ).eval()
    missing, unexpected = reference.encoder.load_state_dict(model.bert.encoder.state_dict())
    assert not missing and not unexpected
    texts = model.bert.embed_words(words)
    states = model.bert.join(texts, model.bert.embed_regions(regions, dequantise(regions)))
    mask = model.bert.join_masks(words.mask, regions.mask)
    expected = reference.encoder(states, attention_mask=mask[:, None, None, :]).last_hidden_state
    assert not mask.all()
    torch.testing.assert_close(model.bert.run(states, mask)[mask], expected[mask], atol=1e-5, rtol=1e-5)


def test_word_embeddings_equal_berts(world, tiny):
    store, vocabulary, words, _ = world
    encoder = tiny.model_copy(update={"segments": "modality"})
    model = build_model(encoder, store, vocabulary, seed=0).eval()
    reference = BertModel(
        BertConfig(
            vocab_size=13, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, max_position_embeddings=16
        )
    ).eval()
    reference.embeddings.load_state_dict(model.bert.embeddings.state_dict(), strict=False)
    text = model.bert.embed_words(words).states
    torch.testing.assert_close(text, reference.embeddings(input_ids=words.ids))


def test_padding_changes_no_score(batch):
    model, words, regions = batch
    torch.testing.assert_close(model.score(*widen(words, regions)), model.score(words, regions), atol=1e-5, rtol=1e-5)


def test_the_order_of_pairs_changes_no_score(batch):
    model, words, regions = batch
    turn = torch.tensor([3, 7, 0, 5, 1, 6, 2, 4])
    turned = model.score(words.take(turn), regions.take(turn))
    torch.testing.assert_close(turned, model.score(words, regions)[turn], atol=1e-5, rtol=1e-5)


def test_the_company_of_other_pairs_changes_no_score(batch):
    model, words, regions = batch
    alone = []
    for pair in range(8):
        mine = words.take(torch.tensor([pair]))
        length = int(mine.mask.sum())
        mine = Words(mine.ids[:, :length], mine.mask[:, :length])
        alone.append(model.score(mine, regions.take(torch.tensor([pair]))))
    torch.testing.assert_close(torch.cat(alone), model.score(words, regions), atol=1e-5, rtol=1e-5)


def test_packing_changes_no_score(world, tiny):
    store, vocabulary, words, regions = world
    scores = []
    for sequences in ("padded", "packed"):
        encoder = tiny.model_copy(update={"sequences": sequences})
        scores.append(build_model(encoder, store, vocabulary, seed=0).eval().score(words, regions))
    assert not words.mask.all() and not regions.mask.all()
    torch.testing.assert_close(scores[1], scores[0], atol=1e-5, rtol=1e-5)


def test_the_order_of_regions_changes_no_score_but_their_boxes_do(batch):
    model, words, regions = batch
    turn = torch.tensor([2, 0, 1])
    turned = Regions(**{n: x if n == "sizes" else x[:, turn] for n, x in regions.given().items()})
    before = model.bert(words, regions, dequantise(regions)).cls
    after = model.bert(words, turned, dequantise(turned)).cls
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    full = regions.mask.all(1)
    swapped = dataclasses.replace(regions, boxes=regions.boxes[:, turn])
    moved = model.bert(words, swapped, dequantise(swapped)).cls
    assert full.any() and not torch.allclose(moved[full], before[full], atol=1e-4)


def test_the_last_layer_for_cls_alone_gives_the_full_passs_score(batch):
    model, words, regions = batch
    full = model.match(model.bert(words, regions, dequantise(regions)).cls)
    torch.testing.assert_close(model.score(words, regions), full, atol=1e-5, rtol=1e-5)


def test_box_codes_by_hand():
    boxes, sizes = torch.tensor([[[10.0, 20.0, 60.0, 40.0]]]), torch.tensor([[100.0, 80.0]])
    expected = [0.1, 0.25, 0.6, 0.5, 0.125]
    torch.testing.assert_close(corners_and_area(boxes, sizes), torch.tensor([[expected]]))
    torch.testing.assert_close(corners(boxes, sizes), torch.tensor([[expected[:4]]]))


def region_vectors(model, regions):
    """What each region adds up to before its LayerNorm, which is taken out."""
    embeddings = model.bert.region_embeddings
    embeddings.LayerNorm, kept = torch.nn.Identity(), embeddings.LayerNorm
    vectors = model.bert.embed_regions(regions, dequantise(regions)).states
    embeddings.LayerNorm = kept
    return vectors


def test_v1_embeds_a_region_by_one_layer_of_feature_and_box_and_the_segment(world, tiny):
    store, vocabulary, _, regions = world
    model = build_model(tiny.model_copy(update=V1), store, vocabulary, seed=0).eval()
    layer, segment = model.bert.region_embeddings.fusion.joint, model.bert.embeddings.token_type_embeddings.weight[1]
    joint = torch.cat([dequantise(regions), corners(regions.boxes, regions.sizes)], -1)
    assert layer.weight.shape == (32, 24 + 4)
    torch.testing.assert_close(region_vectors(model, regions), joint @ layer.weight.T + layer.bias + segment)


def test_v3_adds_a_layer_of_the_feature_a_layer_of_the_box_and_the_image_token(world, tiny):
    store, vocabulary, _, regions = world
    model = build_model(tiny, store, vocabulary, seed=0).eval()
    parts = model.bert.region_embeddings
    code = corners_and_area(regions.boxes, regions.sizes)
    expected = (
        dequantise(regions) @ parts.fusion.feature.weight.T
        + parts.fusion.feature.bias
        + code @ parts.fusion.location.weight.T
        + parts.fusion.location.bias
        + parts.image_token.weight[0]
    )
    torch.testing.assert_close(region_vectors(model, regions), expected)
    assert not any("token_type" in name for name in model.state_dict())


def test_a_shared_position_is_the_one_after_the_longest_caption(world, tiny):
    store, vocabulary, _, regions = world
    plain = build_model(tiny, store, vocabulary, seed=0).eval()
    placed = build_model(tiny.model_copy(update={"region_position": "shared"}), store, vocabulary, seed=0).eval()
    position = placed.bert.embeddings.position_embeddings.weight[tiny.max_text_tokens]
    torch.testing.assert_close(region_vectors(placed, regions), region_vectors(plain, regions) + position)


def test_without_a_closing_mark_the_sequence_is_one_shorter(world, tiny):
    store, vocabulary, words, regions = world
    closed, open_ = (
        build_model(tiny.model_copy(update={"closing_sep": closing}), store, vocabulary, seed=0).eval()
        for closing in (True, False)
    )
    for model, extra in ((closed, 1), (open_, 0)):
        texts = model.bert.embed_words(words)
        states = model.bert.join(texts, model.bert.embed_regions(regions, dequantise(regions)))
        mask = model.bert.join_masks(words.mask, regions.mask)
        assert states.shape[1] == mask.shape[1] == words.ids.shape[1] + 3 + extra
        encoded = model.bert(words, regions, dequantise(regions))
        assert encoded.regions.shape[1] == 3
        torch.testing.assert_close(
            encoded.regions, model.bert.run(states, mask)[:, -3 - extra : states.shape[1] - extra]
        )
    assert not torch.allclose(closed.score(words, regions), open_.score(words, regions), atol=1e-5)


def test_features_of_another_width_are_refused(batch):
    model, words, regions = batch
    wide = dataclasses.replace(regions, features=regions.features.repeat(1, 1, 2))
    with pytest.raises(InputError, match="48-wide features but this model reads 24"):
        model.score(words, wide)


def test_save_and_load_give_the_same_scores_and_a_readable_config(batch, tmp_path):
    model, words, regions = batch
    model.save_pretrained(tmp_path / "saved")
    loaded = VisionLanguageModel.from_pretrained(tmp_path / "saved", local_files_only=True, strict=True).eval()
    assert torch.equal(loaded.score(words, regions), model.score(words, regions))
    assert loaded.config == model.config
    text = (tmp_path / "saved" / "config.json").read_text()
    assert '"hidden_size": 32' in text and '"vocab_size": 13' in text


def test_dequantise_on_the_device_equals_the_numpy_twin(world):
    from feature_extraction.samples.regions import dequantise as slow

    regions = world[3]
    expected = slow(regions.features.numpy(), regions.scales.numpy().astype(np.float16))
    np.testing.assert_allclose(dequantise(regions).numpy(), expected, rtol=1e-6)
