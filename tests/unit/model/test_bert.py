"""Small BERTs made by transformers, saved as users have them, loaded into ours."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file
from transformers import BertConfig, BertForPreTraining, BertModel

from model.bert import find_bert, load_bert, read_weights
from model.build import build_model
from model.data import FeatureStore, pad_words
from model.errors import InputError
from model.tokenizer import load_vocabulary
from tests.toy import VOCABULARY

LAYERS = 4


def make_bert(folder, **changes):
    torch.manual_seed(3)
    config = BertConfig(
        **{
            "vocab_size": 13,
            "hidden_size": 32,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 16,
            "initializer_range": 0.2,
            **changes,
        }
    )
    bert = BertForPreTraining(config).eval()
    for parameter in bert.parameters():  # New LayerNorms and biases are ones and zeros, and would prove nothing.
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.2)
    bert.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return bert


@pytest.fixture
def world(eight_pairs, tmp_path):
    source, path = eight_pairs
    return FeatureStore(source.features_path), load_vocabulary(path), tmp_path / "bert"


def as_bin(folder, rename=lambda name: name):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({rename(name): weight for name, weight in weights.items()}, folder / "pytorch_model.bin")


def tensorflow_names(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def words_only(model, words):
    """Our last states (B, T, H) of captions alone, as BERT would see them."""
    text, _ = model.bert.embed_words(words)
    return model.bert.run(text, words.mask)


def some_words():
    return pad_words([np.array(row, np.int32) for row in ([2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 3])], 0)


@pytest.mark.parametrize("form", ["safetensors", "bin", "bin with TensorFlow's names"])
@pytest.mark.parametrize("segments", ["modality", "none"])
def test_captions_alone_come_out_as_from_bert(world, tiny, form, segments):
    store, vocabulary, folder = world
    bert = make_bert(folder)
    if form != "safetensors":
        as_bin(folder, tensorflow_names if "names" in form else lambda name: name)
    encoder = tiny.model_copy(update={"bert": str(folder), "num_layers": LAYERS, "segments": segments})
    model, words = build_model(encoder, store, vocabulary, seed=0).eval(), some_words()
    expected = bert.bert(input_ids=words.ids, attention_mask=words.mask).last_hidden_state
    states = words_only(model, words)
    torch.testing.assert_close(states[words.mask], expected[words.mask], atol=1e-5, rtol=1e-5)
    logits = model.cls["predictions"](states[words.mask], model.bert.embeddings.word_embeddings.weight)
    torch.testing.assert_close(logits, bert.cls.predictions(expected[words.mask]), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("layers", [1, 3])
def test_the_first_layers_of_a_deeper_bert(world, tiny, layers):
    store, vocabulary, folder = world
    make_bert(folder)
    first = BertModel.from_pretrained(folder, num_hidden_layers=layers, add_pooling_layer=False).eval()
    encoder = tiny.model_copy(update={"bert": str(folder), "num_layers": layers})
    model, words = build_model(encoder, store, vocabulary, seed=0).eval(), some_words()
    expected = first(input_ids=words.ids, attention_mask=words.mask).last_hidden_state
    torch.testing.assert_close(words_only(model, words)[words.mask], expected[words.mask], atol=1e-5, rtol=1e-5)


def test_the_pooler_comes_along_and_what_only_ours_has_stays_new(world, tiny):
    store, vocabulary, folder = world
    bert = make_bert(folder)
    encoder = tiny.model_copy(update={"pooler": True})
    fresh = build_model(encoder, store, vocabulary, seed=0).state_dict()
    model = build_model(encoder.model_copy(update={"bert": str(folder)}), store, vocabulary, seed=0)
    states = torch.randn(5, 32)
    expected = bert.bert.pooler(states.unsqueeze(1))
    torch.testing.assert_close(model.pooler(states), expected)
    for name, weight in model.state_dict().items():
        is_new = name.startswith(("bert.region_embeddings", "region_labels", "matching"))
        assert torch.equal(weight, fresh[name]) == is_new, name


def test_longer_position_and_segment_tables_give_their_first_rows(world, tiny):
    store, vocabulary, folder = world
    bert = make_bert(folder, max_position_embeddings=40, type_vocab_size=3)
    encoder = tiny.model_copy(update={"bert": str(folder), "segments": "modality"})
    tables, theirs = build_model(encoder, store, vocabulary, seed=0).bert.embeddings, bert.bert.embeddings
    assert torch.equal(tables.position_embeddings.weight, theirs.position_embeddings.weight[:16])
    assert torch.equal(tables.token_type_embeddings.weight, theirs.token_type_embeddings.weight[:2])


def test_a_shorter_segment_table_fills_the_rows_that_it_has(world, tiny):
    store, vocabulary, folder = world
    bert = make_bert(folder, type_vocab_size=1)
    encoder = tiny.model_copy(update={"segments": "modality"})
    fresh = build_model(encoder, store, vocabulary, seed=0).bert.embeddings.token_type_embeddings.weight
    encoder = encoder.model_copy(update={"bert": str(folder)})
    table = build_model(encoder, store, vocabulary, seed=0).bert.embeddings.token_type_embeddings.weight
    assert torch.equal(table[0], bert.bert.embeddings.token_type_embeddings.weight[0])
    assert torch.equal(table[1], fresh[1])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 16}, r"\(13, 16\) but this model's is \(13, 32\)"),
        ({"intermediate_size": 48}, r"intermediate.dense.weight is \(48, 32\) but this model's is \(64, 32\)"),
        ({"max_position_embeddings": 8}, r"position_embeddings.weight is \(8, 32\) but this model's is \(16, 32\)"),
        ({"vocab_size": 20}, r"word_embeddings.weight is \(20, 32\) but this model's is \(13, 32\)"),
        ({"num_hidden_layers": 1}, "lacks 16 weights .* bert.encoder.layer.1."),
        ({"num_attention_heads": 8}, "num_attention_heads=8 but the model has 4"),
        ({"hidden_act": "relu"}, "hidden_act=relu"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05"),
    ],
)
def test_a_bert_that_does_not_fit_is_refused_with_both_sizes_named(world, tiny, sizes, message):
    store, vocabulary, folder = world
    make_bert(folder, **sizes)
    with pytest.raises(InputError, match=message):
        build_model(tiny.model_copy(update={"bert": str(folder)}), store, vocabulary, seed=0)


def test_a_bert_without_its_word_head_is_refused_by_the_names_it_lacks(world, tiny):
    store, vocabulary, folder = world
    make_bert(folder).bert.save_pretrained(folder)
    assert "bert.embeddings.word_embeddings.weight" in read_weights(folder)
    with pytest.raises(InputError, match=r"lacks 5 weights .*cls.predictions"):
        build_model(tiny.model_copy(update={"bert": str(folder)}), store, vocabulary, seed=0)


def test_another_vocabulary_of_the_same_size_is_refused(world, tiny):
    store, vocabulary, folder = world
    make_bert(folder)
    pieces = [*VOCABULARY[:-1], "boat"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    with pytest.raises(InputError, match=r"not the vocabulary in use \(line 13 differs"):
        build_model(tiny.model_copy(update={"bert": str(folder)}), store, vocabulary, seed=0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor pytorch_model.bin"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"rubbish"), "model.safetensors cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "no JSON object"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(world, tiny, spoil, message):
    store, vocabulary, folder = world
    make_bert(folder)
    spoil(folder)
    with pytest.raises(InputError, match=message):
        build_model(tiny.model_copy(update={"bert": str(folder)}), store, vocabulary, seed=0)


def test_a_pickle_with_code_in_it_is_refused(world):
    *_, folder = world
    make_bert(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"bert.weight": Fraction(1, 2)}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin cannot be read"):
        read_weights(folder)


def test_a_hub_name_that_cannot_be_had_is_one_sentence(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"encoder.bert='nobody/no-such-bert' is no folder here") as raised:
        find_bert("nobody/no-such-bert")
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="is no folder here"):
        find_bert("not/a/name")


@pytest.mark.parametrize("kept", ["model.safetensors", "pytorch_model.bin"])
def test_a_hub_name_is_fetched_file_by_file(world, tiny, monkeypatch, kept):
    store, vocabulary, folder = world
    bert = make_bert(folder)
    if kept == "pytorch_model.bin":
        as_bin(folder)

    def from_the_hub(name, file):
        assert name == "someone/small-bert"
        if not (folder / file).is_file():
            raise EntryNotFoundError(file)
        return str(folder / file)

    monkeypatch.setattr("model.bert.hf_hub_download", from_the_hub)
    model = build_model(tiny.model_copy(update={"bert": "someone/small-bert"}), store, vocabulary, seed=0)
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, bert.bert.embeddings.word_embeddings.weight)
    load_bert(model, str(folder), vocabulary)
