import dataclasses

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from model.data import FeatureStore, Regions, Words, load_captions
from model.encoder import UnicoderVL, box_code, dequantise
from model.pretrain import build_model
from model.tokenizer import load_vocabulary, tokenize


@pytest.fixture
def batch(eight_pairs, tiny):
    source, vocabulary_path = eight_pairs
    vocabulary = load_vocabulary(vocabulary_path)
    store = FeatureStore(source.features_path)
    captions = load_captions(source, store)
    tokens = tokenize(vocabulary, captions.texts, tiny.max_text_tokens)
    from model.data import pad_words

    model = build_model(tiny, store, vocabulary, seed=0).eval()
    return model, pad_words([tokens[i] for i in range(8)], vocabulary.pad_id), store.read(captions.image_rows, 4)


def widen(words: Words, regions: Regions) -> tuple[Words, Regions]:
    """The same pairs with more padding, filled with rubbish."""

    def longer(x: torch.Tensor, fill: float) -> torch.Tensor:
        return torch.cat([x, torch.full_like(x[:, :2], fill)], 1)

    words = Words(longer(words.ids, 7), longer(words.mask, 0))
    fields = {f.name: getattr(regions, f.name) for f in dataclasses.fields(regions)}
    fields = {n: x if n == "sizes" else longer(x, 0 if n == "mask" else 3) for n, x in fields.items()}
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
    text, closing = model.bert.embed_words(words)
    states = model.bert.join(text, closing, model.bert.embed_regions(regions, dequantise(regions)))
    mask = model.bert.join_masks(words.mask, regions.mask)
    expected = reference.encoder(states, attention_mask=mask).last_hidden_state
    valid = mask[:, 0, 0]
    torch.testing.assert_close(model.bert.run(states, mask)[valid], expected[valid], atol=1e-5, rtol=1e-5)


def test_word_embeddings_equal_berts(batch, tiny):
    model, words, _ = batch
    reference = BertModel(
        BertConfig(
            vocab_size=13, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, max_position_embeddings=16
        )
    ).eval()
    reference.embeddings.load_state_dict(model.bert.embeddings.state_dict(), strict=False)
    text, _ = model.bert.embed_words(words)
    torch.testing.assert_close(text, reference.embeddings(input_ids=words.ids))


def test_padding_changes_no_score(batch):
    model, words, regions = batch
    torch.testing.assert_close(model.score(*widen(words, regions)), model.score(words, regions), atol=1e-5, rtol=1e-5)


def test_the_order_of_regions_changes_no_score_but_their_boxes_do(batch):
    model, words, regions = batch
    turn = torch.tensor([2, 0, 1])
    turned = Regions(
        **{
            f.name: getattr(regions, f.name) if f.name == "sizes" else getattr(regions, f.name)[:, turn]
            for f in dataclasses.fields(regions)
        }
    )
    before = model.score(words, regions)
    torch.testing.assert_close(model.score(words, turned), before, atol=1e-5, rtol=1e-5)
    swapped = dataclasses.replace(regions, boxes=regions.boxes[:, turn])
    assert not torch.allclose(model.score(words, swapped), before, atol=1e-4)


def test_the_last_layer_for_cls_alone_gives_the_full_passs_score(batch):
    model, words, regions = batch
    full = model.match(model.bert(words, regions, dequantise(regions)).cls)
    torch.testing.assert_close(model.score(words, regions), full, atol=1e-5, rtol=1e-5)


def test_box_code_by_hand():
    boxes, sizes = torch.tensor([[[10.0, 20.0, 60.0, 40.0]]]), torch.tensor([[100.0, 80.0]])
    expected = [0.1, 0.25, 0.6, 0.5, 0.125]
    torch.testing.assert_close(box_code(boxes, sizes, with_area=True), torch.tensor([[expected]]))
    torch.testing.assert_close(box_code(boxes, sizes, with_area=False), torch.tensor([[expected[:4]]]))


@pytest.mark.parametrize(("fusion", "code"), [("concat", "corners"), ("sum", "corners_area")])
def test_both_published_region_embeddings_run_and_train(batch, tiny, fusion, code):
    _, words, regions = batch
    encoder = tiny.model_copy(update={"region_fusion": fusion, "box_code": code})
    model = UnicoderVL(vocab_size=13, feature_dim=24, num_labels=8, sep_id=3, encoder=encoder.model_dump())
    model.score(words, regions).sum().backward()
    first = model.bert.region_embeddings
    weight = first.feature.weight if fusion == "sum" else first.joint.weight
    assert weight.shape == ((32, 24) if fusion == "sum" else (32, 28))
    assert weight.grad is not None and float(weight.grad.abs().sum()) > 0


def test_dequantise_on_the_device_equals_the_numpy_twin(batch):
    from feature_extraction.samples import dequantise as slow

    _, _, regions = batch
    expected = slow(regions.features.numpy(), regions.scales.numpy().astype(np.float16))
    np.testing.assert_allclose(dequantise(regions).numpy(), expected, rtol=1e-6)
